"""The kinds of detection errors on made boxes, and the AP that each costs, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from structures import DatasetInfo, Instances, Prediction, Target
from tools.errors.calibration import calibration
from tools.errors.objects import ObjectErrors, ShapeErrors
from tools.errors.tide import KINDS, average_precision

SQUARE, SIZE = [0.0, 0.0, 10.0, 10.0], (200, 200)


def objects(*entries, crowd=None) -> Instances:
    """Of (label, box as x, y, w, h) or (label, box, score)."""
    boxes = torch.tensor([box for _, box, *_ in entries], dtype=torch.float64).reshape(-1, 4)
    labels = torch.tensor([label for label, *_ in entries], dtype=torch.int64)
    scores = (
        torch.tensor([entry[2] for entry in entries]) if entries and len(entries[0]) > 2 else torch.zeros(len(labels))
    )
    return Instances(boxes, labels, scores=scores, xywh=boxes, crowd=None if crowd is None else torch.tensor(crowd))


def errors(*images, classes=("a", "b")) -> dict:
    shape = ShapeErrors(classes, "bbox")
    for detected, true in images:
        shape.add(detected, true, SIZE)
    return shape.record()


def counts(record: dict) -> dict:
    return {name: count for name, count in record["count"].items() if count}


def moved(by: float) -> list[float]:
    """SQUARE to the right: its IoU with SQUARE is (10 - by) / (10 + by)."""
    return [by, 0.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("detections", "kinds"),
    [
        ([(0, moved(1), 0.9)], {"right": 1}),
        ([(0, moved(5), 0.9)], {"localisation": 1}),  # IoU 1/3
        ([(1, moved(1), 0.9)], {"classification": 1}),
        ([(1, moved(5), 0.9)], {"both": 1, "missed": 1}),
        ([(0, moved(9), 0.9)], {"background": 1, "missed": 1}),  # IoU 1/19
        ([(0, SQUARE, 0.9), (0, moved(1), 0.8)], {"right": 1, "duplicate": 1}),
        ([], {"missed": 1}),
    ],
)
def test_each_kind(detections, kinds):
    assert counts(errors((objects(*detections), objects((0, SQUARE))))) == kinds


def test_without_objects_everything_is_background():
    assert counts(errors((objects((0, SQUARE, 0.9)), objects()))) == {"background": 1}


def test_detections_on_a_crowd_of_their_class_do_not_count():
    crowd = objects((0, [0.0, 0.0, 100.0, 100.0]), crowd=[True])
    record = errors((objects((0, SQUARE, 0.9), (1, SQUARE, 0.8)), crowd))
    assert counts(record) == {"background": 1}
    assert (record["objects"], record["detections"]) == (0, 1)
    assert [count for _, _, count in record["calibration"]["bins"]] == [1]


def test_a_better_detection_takes_the_object_whatever_the_order():
    record = errors((objects((0, moved(1), 0.3), (0, moved(2), 0.9)), objects((0, SQUARE))))
    assert counts(record) == {"right": 1, "duplicate": 1}
    assert record["lost"]["duplicate"] == 0  # it comes after the one that is right


def test_what_each_kind_costs():
    """Two objects of one class; the better detection is background, the other right: AP is 51 recalls of 1/2."""
    far = [100.0, 100.0, 10.0, 10.0]
    record = errors((objects((0, [50.0, 50.0, 10.0, 10.0], 0.9), (0, SQUARE, 0.8)), objects((0, SQUARE), (0, far))))
    half = 100 * 51 / 101
    assert record["AP50"] == pytest.approx(half / 2)
    assert record["lost"]["background"] == pytest.approx(half / 2)  # precision 1 up to recall 1/2
    assert record["lost"]["missed"] == pytest.approx(50 - half / 2)  # precision 1/2 up to recall 1
    assert [record["lost"][kind] for kind in KINDS[:4]] == [0, 0, 0, 0]


def test_a_repaired_class_counts_for_the_true_class():
    record = errors((objects((1, SQUARE, 0.9)), objects((0, SQUARE), (1, [100.0, 100.0, 10.0, 10.0]))))
    assert record["AP50"] == 0
    assert record["per_class"][0]["lost"]["classification"] == 100
    assert record["per_class"][1]["lost"] == {**dict.fromkeys(KINDS, 0.0), "missed": 100}
    assert record["lost"]["classification"] == 50


def test_only_the_best_of_several_errors_about_an_object_is_repaired():
    """Two localisation errors about one object: one becomes right, the other is removed."""
    record = errors((objects((0, moved(5), 0.9), (0, moved(4), 0.8)), objects((0, SQUARE))))
    assert counts(record) == {"localisation": 2}
    assert record["lost"]["localisation"] == 100


def test_sizes_are_those_of_the_objects():
    large = [0.0, 0.0, 100.0, 100.0]
    record = errors((objects((0, [60.0, 0.0, 100.0, 100.0], 0.9)), objects((0, large), (1, SQUARE))))
    small, _, big = record["per_size"]
    assert (small["objects"], big["objects"]) == (1, 1)
    assert (small["count"]["missed"], big["count"]["localisation"]) == (1, 1)
    assert (small["lost"]["missed"], big["lost"]["localisation"], small["lost"]["localisation"]) == (50, 50, 0)


@pytest.mark.parametrize(("area", "size"), [(1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")])
def test_the_size_of_an_object_is_its_area_in_the_data(area, size):
    true = replace(objects((0, SQUARE)), areas=torch.tensor([float(area)], dtype=torch.float64))
    record = errors((objects(), true))
    assert [row["size"] for row in record["per_size"] if row["objects"]] == [size]


def half(rows: slice, *entries) -> Instances:
    """Objects that all have the same mask, some rows of SQUARE."""
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[rows, :10] = 1
    return replace(objects(*entries), rles=[coco_mask.encode(mask)["counts"]] * len(entries))


def test_masks_are_judged_by_their_pixels_and_grade_the_image():
    """The boxes are the same, the masks the upper and the lower half."""
    analysis = ObjectErrors(DatasetInfo("instance", "made", ("a", "b")))
    found, true = half(np.s_[:5], (0, SQUARE, 0.75), (0, SQUARE, 0.25)), half(np.s_[5:10], (0, SQUARE))
    grade = analysis.add(Prediction(instances=found), Target("1", SIZE, instances=true))
    record = analysis.record()
    assert counts(record["bbox"]) == {"right": 1, "duplicate": 1}
    assert counts(record["segm"]) == {"background": 2, "missed": 1}
    assert grade.badness == 1 + 0.75 + 0.25
    assert grade.why == "of 1 objects: 1 background, 1 not found"  # counts only scores of 0.5 or more


def test_average_precision_by_hand():
    assert average_precision(np.array([True, True]), 2) == 1
    assert average_precision(np.array([True]), 4) == pytest.approx(26 / 101)  # recalls 0, 0.01, .., 0.25
    assert average_precision(np.array([], bool), 3) == 0


def test_calibration_by_hand():
    found = calibration(np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, True, True, False]))
    assert found["ece"] == pytest.approx(100 * (0.5 * 0.05 + 0.5 * 0.35))
    assert [count for _, _, count in found["bins"]] == [2, 2]
    assert np.isnan(calibration(np.zeros(0), np.zeros(0, bool))["ece"])
