"""Boundary AP and boundary PQ against a second implementation: the authors' algorithm, written from their release.

Boundaries by repeated erosion of the whole, padded mask, as in boundary-iou-api; AP by pycocotools' own loop over the
whole data set; PQ segment by segment.
"""

import copy
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import TypeAdapter

from errors import UserError
from metrics import MetricConfig
from metrics.boundary import boundary_rles
from metrics.coco_ap import STATS, CocoAP, CocoAPConfig
from metrics.panoptic_quality import PanopticQuality
from structures import DatasetInfo, Panoptic, Prediction, Target
from tests.metrics.coco_example import INFO, Example, random_example


def boundary_of(mask: np.ndarray, ratio: float) -> np.ndarray:
    """The boundary of a mask [H, W] uint8: it minus its erosion, as many times by 3 x 3 as the band is wide."""
    height, width = mask.shape
    times = max(round(ratio * np.sqrt(height**2 + width**2)), 1)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]


# --- boundaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.01, 0.02, 0.1, 0.6])
def test_boundaries_equal_the_repeated_erosion(ratio: float) -> None:
    rng = np.random.default_rng(0)
    masks = [cv2.GaussianBlur(rng.random((50, 70)), (0, 0), 4) > threshold for threshold in (0.45, 0.49, 0.51, 0.6)]
    masks += [np.ones((50, 70)), np.zeros((50, 70)), np.pad(np.ones((1, 1)), ((49, 0), (0, 69)))]
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]
    for mask, counts in zip(masks, boundary_rles(rles, (50, 70), ratio), strict=True):
        found = coco_mask.decode({"size": [50, 70], "counts": counts})
        assert np.array_equal(found, boundary_of(mask.astype(np.uint8), ratio))


# --- AP --------------------------------------------------------------------------------------------------------------


class BoundaryEval(COCOeval):
    """COCOeval with the IoU of the reference: the smaller of that of masks and of boundaries, except for crowds."""

    ratio = 0.02

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802 (the name in pycocotools)
        objects, detections = self._gts[image, category], self._dts[image, category]
        if not objects or not detections:
            return []
        order = np.argsort([-record["score"] for record in detections], kind="mergesort")[:100]
        sides = [detections[row] for row in order], objects
        crowd = [int(record["iscrowd"]) for record in objects]
        masks = [[record["segmentation"] for record in side] for side in sides]
        bands = [[self.band(rle) for rle in side] for side in masks]
        ious, own = coco_mask.iou(*masks, crowd), coco_mask.iou(*bands, crowd)
        keep = np.array(crowd) == 0
        ious[:, keep] = np.minimum(ious[:, keep], own[:, keep])
        return ious

    def band(self, rle: dict[str, Any]) -> dict[str, Any]:
        band: dict[str, Any] = coco_mask.encode(np.asfortranarray(boundary_of(coco_mask.decode(rle), self.ratio)))
        return band


def by_reference(example: Example, ratio: float) -> list[float]:
    """The twelve numbers in percent."""
    results = [{key: value for key, value in record.items() if key != "bbox"} for record in example.results]
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(example.annotations)
        truth.createIndex()
        evaluator = BoundaryEval(truth, truth.loadRes(copy.deepcopy(results)), "segm")
        evaluator.ratio = ratio
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [np.nan if value == -1 else 100 * float(value) for value in evaluator.stats]


@pytest.mark.parametrize(("seed", "ratio"), [(0, 0.02), (2, 0.1)])
def test_boundary_ap_equals_the_reference_to_the_last_digit(seed: int, ratio: float) -> None:
    example = random_example(seed)
    metric = CocoAP(INFO.classes, ("segm", "boundary"), ratio)
    metric.update(example.predictions(), example.targets())
    numbers, expected = metric.compute(), by_reference(example, ratio)
    assert np.array_equal([numbers[f"boundary/{stat}"] for stat in STATS], expected, equal_nan=True)
    assert 0 < numbers["boundary/AP"] < numbers["segm/AP"]
    assert metric.per_class()[0]["boundary/AP50"] <= metric.per_class()[0]["segm/AP50"]


def test_boundary_ap_stands_beside_the_usual_numbers() -> None:
    config = TypeAdapter(MetricConfig).validate_python({"name": "coco_ap", "boundary": True})
    metric = config.build(INFO)
    assert metric.primary == "segm/AP"
    assert metric.names[::12] == ("bbox/AP", "segm/AP", "boundary/AP")
    assert metric.protocol["boundary_ratio"] == 0.02


def test_boxes_have_no_boundary() -> None:
    with pytest.raises(UserError, match="boundaries are those of masks, and x is detection data"):
        CocoAPConfig(boundary=True).build(DatasetInfo("detection", "x", ("a",)))


# --- PQ --------------------------------------------------------------------------------------------------------------


def random_map(rng: np.random.Generator, size: tuple[int, int], near: Panoptic | None = None) -> Panoptic:
    """Some rectangles with ids that are not in order, void between them; or such a map shifted and changed a little."""
    ids = np.zeros(size, np.int32)
    if near is not None:
        ids = np.roll(near.ids.numpy(), rng.integers(0, 2, 2), (0, 1)).copy()
        ids[rng.integers(size[0]) :][:3] = 0
    else:
        for number in (70, 3, 12, 9, 44, 5):
            top, left = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
            ids[top : top + rng.integers(8, 40), left : left + rng.integers(8, 40)] = number
    labels = {int(segment): int(segment) % 4 for segment in np.unique(ids) if segment}
    crowd = {segment: near is None and segment == 44 for segment in labels}
    return Panoptic(torch.from_numpy(ids), labels, crowd)


def literal_tally(pairs: list[tuple[Panoptic, Panoptic]], ratio: float) -> np.ndarray:
    """Sum of IoUs, TP, FP and FN of each class [4, 4], segment by segment."""
    tally = np.zeros((4, 4))
    for true, found in pairs:
        truth, guess = true.ids.numpy(), found.ids.numpy()
        bands = [
            {s: boundary_of((ids == s).astype(np.uint8), ratio) > 0 for s in np.unique(ids)} for ids in (truth, guess)
        ]
        matched = set()
        for t, label in true.labels.items():
            for p, own in found.labels.items():
                if own != label or true.crowd[t]:
                    continue
                iou = 1.0
                for a, b in ((truth == t, guess == p), (bands[0][t], bands[1][p])):
                    counted = b & (truth != 0)
                    iou = min(iou, (a & b).sum() / (a | counted).sum())
                if iou > 0.5:
                    tally[label] += [iou, 1, 0, 0]
                    matched |= {("t", t), ("p", p)}
        for t, label in true.labels.items():
            tally[label, 3] += ("t", t) not in matched and not true.crowd[t]
        for p, label in found.labels.items():
            free = (truth == 0) | np.isin(truth, [t for t in true.labels if true.crowd[t] and true.labels[t] == label])
            tally[label, 2] += ("p", p) not in matched and 2 * (free & (guess == p)).sum() <= (guess == p).sum()
    return tally


@pytest.mark.parametrize("ratio", [0.02, 0.06])
def test_boundary_pq_equals_the_literal_loop(ratio: float) -> None:
    rng = np.random.default_rng(0)
    metric, pairs = PanopticQuality(tuple("abcd"), (True, True, False, False), ratio), []
    for number in range(12):
        true = random_map(rng, (70, 90))
        pairs.append((true, random_map(rng, (70, 90), near=true)))
        metric.update([Prediction(panoptic=pairs[-1][1])], [Target(str(number), (70, 90), panoptic=true)])
    tally = literal_tally(pairs, ratio)
    records = metric.per_class()
    assert [[record[f"b{name}"] for name in ("TP", "FP", "FN")] for record in records] == tally[:, 1:].tolist()
    quality = tally[:, 0] / (tally[:, 1] + tally[:, 2:].sum(1) / 2)
    assert [record["bPQ"] for record in records] == pytest.approx((100 * quality).tolist())
    numbers = metric.compute()
    assert numbers["bPQ"] == pytest.approx(100 * quality.mean())
    assert numbers["bPQ_th"] == pytest.approx(100 * quality[:2].mean())
    assert tally[:, 1].sum() > 10
    assert numbers["bPQ"] < numbers["PQ"]


def test_without_boundaries_pq_has_nine_numbers() -> None:
    assert len(PanopticQuality(("a",), (True,)).names) == 9
