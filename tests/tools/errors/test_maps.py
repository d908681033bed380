"""Errors of semantic, panoptic and depth maps on made maps, by hand."""

import numpy as np
import pytest
import torch

from experiment import load_experiment
from metrics.depth_errors import DepthErrorsConfig
from structures import IGNORE, DatasetInfo, Panoptic, Prediction, Target
from tests.conftest import ROOT
from tools.errors.analysis import build_analysis
from tools.errors.depth import DepthErrorsByPlace, relative_gradient
from tools.errors.panoptic import PanopticErrors
from tools.errors.semantic import SemanticErrors, near_boundary

CLASSES = ("a", "b", "c")


def semantic(truth, predicted):
    analysis = SemanticErrors(DatasetInfo("semantic", "made", CLASSES))
    truth, predicted = torch.as_tensor(truth, dtype=torch.int16), torch.as_tensor(predicted, dtype=torch.int32)
    grade = analysis.add(Prediction(semantic=predicted), Target("1", tuple(truth.shape), semantic=truth))
    return grade, analysis.record()


def test_the_confusion_matrix():
    grade, record = semantic([[0, 0, 0, 1], [1, 1, IGNORE, 1]], [[0, 1, 1, 1], [1, 0, 2, 2]])
    assert record["confusion"] == [[1, 2, 0], [1, 2, 1], [0, 0, 0]]
    assert record["accuracy"] == pytest.approx(100 * 3 / 7)
    first, second, third = record["per_class"]
    assert (first["IoU"], second["IoU"], third["IoU"]) == (25.0, pytest.approx(100 / 3), 0.0)
    assert (first["recall"], first["precision"]) == (pytest.approx(100 / 3), 50.0)
    assert record["confusions"][0] == {"true": "a", "predicted": "b", "pixels": 2, "share_of_errors": 50.0}
    assert grade.badness == pytest.approx(100 * 4 / 7)
    assert "a as b (28.6 %)" in grade.why


def test_boundary_and_interior():
    """Two halves, 100 pixels wide: the band is 2 % of the diagonal, 2 pixels, on both sides of the edge alone."""
    truth = np.zeros((20, 100), np.int16)
    truth[:, 50:] = 1
    assert near_boundary(truth, 2).sum() == 20 * 4
    predicted = truth.copy()
    predicted[:, 50] = 0  # one of the four columns
    predicted[:, 90:92] = 2
    _, record = semantic(truth, predicted)
    assert record["boundary"] == {"accuracy": 75.0, "pixels": 80}
    assert record["interior"] == {"accuracy": pytest.approx(100 * 94 / 96), "pixels": 20 * 96}
    assert record["per_class"][1]["boundary"] == 50
    assert record["calibration"]["ece"] is None


def test_matched_and_unmatched_segments():
    truth, predicted = torch.zeros(10, 10, dtype=torch.int32), torch.zeros(10, 10, dtype=torch.int32)
    truth[:, :5], truth[:, 5:] = 1, 2
    predicted[:8, :5], predicted[8:, :5], predicted[:, 5:] = 1, 3, 2
    analysis = PanopticErrors(DatasetInfo("panoptic", "made", CLASSES, things=(True, True, False)))
    grade = analysis.add(
        Prediction(panoptic=Panoptic(predicted, {1: 0, 2: 2, 3: 1})),
        Target("1", (10, 10), panoptic=Panoptic(truth, {1: 0, 2: 1})),
    )
    record = analysis.record()
    assert (record["TP"], record["FP"], record["FN"]) == (1, 2, 1)
    assert [record["per_class"][label][name] for label, name in ((0, "TP"), (1, "FP"), (1, "FN"), (2, "FP"))] == [1] * 4
    assert record["per_class"][0]["IoU"]["mean"] == pytest.approx(80)
    assert sum(record["IoU"]["counts"]) == 1
    assert grade.badness == pytest.approx(100 - 100 * 0.8 / 2.5)
    assert grade.why == "PQ 32.0: 1 of 2 segments matched; 2 predicted without a match"


def test_the_ious_of_a_class_over_images():
    analysis = PanopticErrors(DatasetInfo("panoptic", "made", CLASSES, things=(True, True, False)))
    for rows in (8, 10):  # the others have no segment
        ids = torch.zeros(10, 10, dtype=torch.int32)
        ids[:rows] = 1
        truth = Panoptic(torch.ones(10, 10, dtype=torch.int32), {1: 0})
        analysis.add(Prediction(panoptic=Panoptic(ids, {1: 0})), Target(str(rows), (10, 10), panoptic=truth))
    found = analysis.record()["per_class"][0]["IoU"]
    assert found == pytest.approx({"mean": 90, "median": 90, "lowest_tenth": 82})


def test_depth_counts_what_the_metric_of_the_experiment_scores():
    """Within its crop and range, with predictions clamped to that range."""
    config = "metrics=[{name: depth_errors, crop: eigen, min_depth: 1, max_depth: 8}]"
    analysis = build_analysis(load_experiment(ROOT / "configs/small/depth.yaml", [config]))
    truth = torch.full((480, 640), 9.0)  # beyond the range
    truth[40:60, 41:43] = 4.0
    truth[100, 100] = 0.5
    analysis.add(Prediction(depth=torch.full((480, 640), 50.0)), Target("1", (480, 640), depth=truth))
    record = analysis.record()
    assert record["all"]["pixels"] == 15 * 2  # from row 45
    assert (record["all"]["abs_rel"], record["all"]["bias"]) == (1, 4)
    assert [item["to"] for item in record["by_distance"]][-1] == 8


def test_depth_by_distance_and_gradient():
    truth = torch.full((8, 8), 1.5)
    truth[:, 4:] = 6.5
    predicted = torch.where(truth < 2, 1.5 * 1.1, 6.5 * 0.8)
    truth[0, 0] = 0  # not measured
    analysis = DepthErrorsByPlace(
        DatasetInfo("depth", "made", max_depth=10.0), DepthErrorsConfig(crop="none", max_depth=10.0)
    )
    grade = analysis.add(Prediction(depth=predicted), Target("1", (8, 8), depth=truth))
    record = analysis.record()
    near, far = record["by_distance"][1], record["by_distance"][6]
    assert (near["pixels"], far["pixels"]) == (31, 32)
    assert (near["from"], near["to"]) == (1, 2)
    assert (near["abs_rel"], far["abs_rel"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (near["bias"], far["bias"]) == (pytest.approx(0.15), pytest.approx(-1.3))
    assert np.isnan(record["by_distance"][0]["abs_rel"])
    assert (near["delta1"], far["delta1"]) == (1, 0)
    assert record["all"]["abs_rel"] == pytest.approx((31 * 0.1 + 32 * 0.2) / 63)
    flat, steep = record["by_gradient"][0], record["by_gradient"][-1]
    assert steep["pixels"] == 16  # the columns on both sides of the edge: 2.5 m a pixel
    assert flat["pixels"] + steep["pixels"] == 64 - 3  # without the unmeasured pixel and its neighbours
    assert "off by 15.1 %" in grade.why


def test_the_relative_gradient_of_a_ramp():
    ramp = np.arange(1.0, 6.0)[None].repeat(3, axis=0)
    np.testing.assert_allclose(relative_gradient(ramp)[1], 1 / ramp[1])
