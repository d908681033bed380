"""Boxes and masks: TIDE's six kinds of errors, per class and per size, and how far scores can be trusted."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from metrics.coco_ap import KINDS as KINDS_OF_TASK
from metrics.coco_ap import Kind
from structures import DatasetInfo, Instances, Prediction, Size, Target
from tools.errors.base import Analysis, Grade
from tools.errors.calibration import calibration
from tools.errors.tide import IGNORED, KINDS, MISSED, RIGHT, Objects, Table, average_precisions, sort_out

SIZES, LIMITS = ("small", "medium", "large"), (32**2, 96**2)  # areas in pixels, as COCO's


class ObjectErrors(Analysis):
    """The errors of each kind of shape that the data have. Images are graded by the last: masks, if there are any."""

    def __init__(self, info: DatasetInfo) -> None:
        self._shapes = {kind: ShapeErrors(info.classes, kind) for kind in KINDS_OF_TASK[info.task]}

    def add(self, prediction: Prediction, target: Target) -> Grade:
        """Count the `instances` of one image."""
        assert prediction.instances is not None
        assert target.instances is not None
        return [shape.add(prediction.instances, target.instances, target.size) for shape in self._shapes.values()][-1]

    def record(self) -> dict[str, Any]:
        """A record for each kind of shape, bbox and segm."""
        return {kind: shape.record() for kind, shape in self._shapes.items()}


class ShapeErrors:
    """The errors of boxes (bbox) or masks (segm)."""

    def __init__(self, classes: tuple[str, ...], kind: Kind) -> None:
        self._classes, self._kind = classes, kind
        self._rows: list[tuple[np.ndarray, ...]] = []

    def add(self, detections: Instances, truth: Instances, size: Size) -> Grade:
        """Sort out the detections of one image."""
        shapes, true_shapes = (_shapes(objects, self._kind, size) for objects in (detections, truth))
        detected, everything = _objects(detections, shapes), _objects(truth, true_shapes)
        crowd = np.zeros(len(true_shapes), bool) if truth.crowd is None else truth.crowd.cpu().numpy()
        ious = _ious(shapes, true_shapes, crowd)
        true = Objects(*(column[~crowd] for column in everything))
        of_class = detected.labels[:, None] == everything.labels[crowd]
        on_crowd = (of_class & (ious[:, crowd] > 0.5)).any(axis=1)
        result = sort_out(detected, true, ious[:, ~crowd], on_crowd)

        about = result.objects >= 0
        areas, repaired = detected.areas.copy(), detected.labels.copy()
        areas[about], repaired[about] = true.areas[result.objects[about]], true.labels[result.objects[about]]
        table = (detected.labels, detected.scores, result.kinds, result.repairs, repaired, _sizes(areas))
        self._rows.append((*table, true.labels, _sizes(true.areas), result.missed))
        wrong = (result.kinds != RIGHT) & (result.kinds != IGNORED)
        badness = float((~result.found).sum() + detected.scores[wrong].sum())
        counts = np.bincount(result.kinds[wrong & (detected.scores >= 0.5)], minlength=len(KINDS))
        counts[MISSED] = (~result.found).sum()
        names = [*KINDS[:MISSED], "not found"]
        parts = [f"{count} {name}" for name, count in zip(names, counts.tolist(), strict=True) if count]
        return Grade(badness, f"of {len(true.labels)} objects: {', '.join(parts) or 'all found'}")

    def record(self) -> dict[str, Any]:
        """AP at IoU 0.5 in percent, the AP that each kind costs, and counts: overall, per class and per size."""
        table = Table(*(np.concatenate(column) for column in zip(*self._rows, strict=True)))
        classes = len(self._classes)
        before = average_precisions(table, classes)
        after = [average_precisions(table, classes, kind) for kind in range(len(KINDS))]
        objects = np.bincount(table.true_labels, minlength=classes)
        per_class = [
            {
                "class": name,
                "objects": int(objects[label]),
                "AP50": float(before[label]),
                "lost": {kind: float(after[number][label] - before[label]) for number, kind in enumerate(KINDS)},
                "count": _counts(table, table.labels == label, table.true_labels == label),
            }
            for label, name in enumerate(self._classes)
        ]
        per_size = []
        for number, name in enumerate(SIZES):

            def chosen(sizes: np.ndarray, number: int = number) -> np.ndarray:
                return sizes == number

            repaired = [average_precisions(table, classes, kind, chosen) for kind in range(len(KINDS))]
            lost = {kind: _mean(values) - _mean(before) for kind, values in zip(KINDS, repaired, strict=True)}
            count = _counts(table, chosen(table.sizes), chosen(table.true_sizes))
            per_size.append(
                {"size": name, "objects": int(chosen(table.true_sizes).sum()), "lost": lost, "count": count}
            )
        return {
            "AP50": _mean(before),
            "lost": {kind: _mean(values) - _mean(before) for kind, values in zip(KINDS, after, strict=True)},
            "count": _counts(table, np.ones(len(table.labels), bool), np.ones(len(table.missed), bool)),
            "objects": int(objects.sum()),
            "detections": int((table.kinds != IGNORED).sum()),
            "per_class": per_class,
            "per_size": per_size,
            "calibration": calibration(
                table.scores[table.kinds != IGNORED], (table.kinds == RIGHT)[table.kinds != IGNORED]
            ),
        }


def _counts(table: Table, detections: np.ndarray, objects: np.ndarray) -> dict[str, int]:
    """How many errors of each kind the chosen detections and objects have, and how many are right."""
    counts = {kind: int((detections & (table.kinds == number)).sum()) for number, kind in enumerate(KINDS)}
    return counts | {
        "missed": int((objects & table.missed).sum()),
        "right": int((detections & (table.kinds == RIGHT)).sum()),
    }


def _mean(values: np.ndarray) -> float:
    """The mean over classes with objects."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _shapes(objects: Instances, kind: Kind, size: Size) -> list[Any]:
    if kind == "bbox":
        boxes: list[Any] = objects.coco_boxes().tolist()
        return boxes
    assert objects.rles is not None
    return [{"size": list(size), "counts": counts} for counts in objects.rles]


def _objects(objects: Instances, shapes: list[Any]) -> Objects:
    labels = objects.labels.cpu().numpy()
    scores = np.zeros(len(labels)) if objects.scores is None else objects.scores.double().cpu().numpy()
    if objects.areas is not None:
        areas = objects.areas.double().cpu().numpy()
    else:
        areas = np.array([coco_mask.area(item) if isinstance(item, dict) else item[2] * item[3] for item in shapes])
    return Objects(labels, areas.astype(np.float64), scores)


def _ious(detected: list[Any], true: list[Any], crowd: np.ndarray) -> np.ndarray:
    """[D, T]; with crowds, the share of the detection that is on them."""
    if not detected or not true:
        return np.zeros((len(detected), len(true)))
    are_boxes = not isinstance(true[0], dict)
    pair = (np.array(detected), np.array(true)) if are_boxes else (detected, true)
    return np.asarray(coco_mask.iou(*pair, crowd.astype(np.uint8).tolist()))


def _sizes(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted(LIMITS, areas, side="right")
