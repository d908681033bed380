"""Panoptic quality (Kirillov et al., CVPR 2019, sections 4.1 and 4.2), with the rules of COCO's panopticapi.

The state is the IoU of each match, 8 bytes, and counts. Sums of IoUs are exact until a final rounding, so the values
depend neither on the order of the images nor on the number of processes.
"""

import math
from array import array
from typing import Any, Literal, NamedTuple

import numpy as np

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.distributed import gather_objects, sum_over_processes
from structures import DatasetInfo, Panoptic, Prediction, Target

VOID = 0  # id of pixels without a segment
STATS = ("PQ", "SQ", "RQ")


class PanopticQualityConfig(Schema):
    """No options."""

    name: Literal["panoptic_quality"] = "panoptic_quality"

    def build(self, info: DatasetInfo) -> "PanopticQuality":
        """The metric for the classes of `info`. Raises UserError if the task is not panoptic."""
        if info.task != "panoptic":
            what = f"{info.name} is {info.task} data, which does not divide images into segments"
            raise UserError("metrics.panoptic_quality", what, "choose a metric of its task")
        return PanopticQuality(info.classes, info.things)


class Segments(NamedTuple):
    """The S segments of a panoptic map, in the order of its `labels`. ids, labels: [S] int64. crowd: [S] bool."""

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class PanopticQuality(Metric):
    """PQ, SQ and RQ in percent, over all classes, things (_th) and stuff (_st); NaN for a group without segments."""

    names = tuple(stat + group for group in ("", "_th", "_st") for stat in STATS)
    primary = "PQ"

    def __init__(self, classes: tuple[str, ...], things: tuple[bool, ...]) -> None:
        self._classes = classes
        self._things = np.array(things, bool)
        self._images: set[str] = set()
        self._ious = [array("d") for _ in classes]  # by class: the IoU of each match, that is, of each true positive
        self._errors = np.zeros((len(classes), 2), np.int64)  # by class: false positives, false negatives
        self.protocol: dict[str, Any] = {
            "PQ": (
                "as panopticapi: sum of IoU / (TP + FP/2 + FN/2) over the data set, mean over classes with any of the "
                "three; SQ = sum of IoU / TP, 0 without TP; RQ = TP / (TP + FP/2 + FN/2); _th: things, _st: stuff"
            ),
            "match": "a predicted and a true segment of one class, IoU above 0.5 without what is predicted on void",
            "void_and_crowd": (
                "true crowd segments neither match nor count as FN; an unmatched prediction is no FP if more than half "
                "of it lies on void or on crowd of its class, of several crowds on the one listed last"
            ),
        }

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add predicted and true `panoptic` maps of equal sizes.

        Raises ValueError if an image was added before, if sizes differ, or if ids and labels do not match.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.panoptic is not None
            assert target.panoptic is not None
            if target.image_id in self._images:
                raise ValueError(f"image {target.image_id} was scored before")
            try:
                self._add(target.panoptic, prediction.panoptic)
            except ValueError as error:
                raise ValueError(f"image {target.image_id}: {error}") from None
            self._images.add(target.image_id)

    def gather(self) -> None:
        """Give every process the matches of all processes. ValueError if two of them scored the same image."""
        self._errors = sum_over_processes(self._errors)
        parts = gather_objects((self._images, self._ious))
        self._images = set().union(*(images for images, _ in parts))
        if len(self._images) < sum(len(images) for images, _ in parts):
            raise ValueError("two processes scored the same image")
        self._ious = [sum(class_ious, array("d")) for class_ious in zip(*(ious for _, ious in parts), strict=True)]

    def compute(self) -> dict[str, float]:
        """The nine values. Raises UserError if no segment is annotated."""
        if (self._true_positives() + self._errors[:, 1]).sum() == 0:
            raise UserError("validation set", "no segment is annotated", "check the annotations")
        values = self._values()
        groups = (np.ones_like(self._things), self._things, ~self._things)
        means = [100 * _mean(column[group]) for group in groups for column in values.T]
        return dict(zip(self.names, means, strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """class, thing, PQ, SQ and RQ in percent (None: class does not occur), TP, FP and FN."""
        counts = np.column_stack([self._true_positives(), self._errors])
        return [
            {
                "class": name,
                "thing": thing,
                **{stat: None if np.isnan(value) else 100 * value for stat, value in zip(STATS, values, strict=True)},
                **dict(zip(("TP", "FP", "FN"), class_counts, strict=True)),
            }
            for name, thing, values, class_counts in zip(
                self._classes, self._things.tolist(), self._values().tolist(), counts.tolist(), strict=True
            )
        ]

    def _add(self, target: Panoptic, prediction: Panoptic) -> None:
        """Match the segments of one image."""
        true, predicted = _segments(target, len(self._classes)), _segments(prediction, len(self._classes))
        overlaps = _overlaps(target, prediction, true.ids, predicted.ids)
        areas = overlaps[:, 1:].sum(axis=0)
        if not areas.all():
            raise ValueError(f"predicted segment {predicted.ids[areas == 0][0]} has a label and no pixel")
        on_void, intersections = overlaps[0, 1:], overlaps[1:, 1:]
        unions = overlaps[1:].sum(axis=1, keepdims=True) + areas - intersections - on_void
        # IoU > 0.5, compared in integers and so exactly.
        matches = (2 * intersections > unions) & (true.labels[:, None] == predicted.labels) & ~true.crowd[:, None]
        for row, column in np.argwhere(matches):
            self._ious[true.labels[row]].append(intersections[row, column] / unions[row, column])

        ignored = on_void.copy()
        crowds = {label: row for row, label in enumerate(true.labels.tolist()) if true.crowd[row]}  # the last per class
        for column, label in enumerate(predicted.labels.tolist()):
            ignored[column] += intersections[crowds[label], column] if label in crowds else 0
        false_positives = predicted.labels[~matches.any(axis=0) & (2 * ignored <= areas)]
        false_negatives = true.labels[~matches.any(axis=1) & ~true.crowd]
        for column, labels in enumerate((false_positives, false_negatives)):
            self._errors[:, column] += np.bincount(labels, minlength=len(self._classes))

    def _true_positives(self) -> np.ndarray:
        """The number of matches of each class, [K] int64."""
        return np.array([len(ious) for ious in self._ious], np.int64)

    def _values(self) -> np.ndarray:
        """PQ, SQ and RQ of each class from 0 to 1, [K, 3] float64; NaN where there is nothing to score."""
        true_positives = self._true_positives()
        sums = np.array([math.fsum(ious) for ious in self._ious])  # exact, so independent of the order
        weights = true_positives + 0.5 * self._errors.sum(axis=1)
        empty = np.where(weights > 0, 0.0, np.nan)
        pq, rq = (np.divide(part, weights, out=empty.copy(), where=weights > 0) for part in (sums, true_positives))
        sq = np.divide(sums, true_positives, out=empty, where=true_positives > 0)
        return np.stack([pq, sq, rq], axis=1)


def _segments(panoptic: Panoptic, num_classes: int) -> Segments:
    """The segments of a panoptic map. ValueError if one has the id of void or a label that is not a class."""
    for segment, label in panoptic.labels.items():
        if segment == VOID or not 0 <= label < num_classes:
            raise ValueError(
                f"segment {segment} has label {label}; {VOID} is void, labels go from 0 to {num_classes - 1}"
            )
    ids, labels = np.array(list(panoptic.labels.items()), np.int64).reshape(-1, 2).T
    return Segments(ids, labels, np.array([panoptic.crowd.get(segment, False) for segment in panoptic.labels], bool))


def _overlaps(target: Panoptic, prediction: Panoptic, true_ids: np.ndarray, predicted_ids: np.ndarray) -> np.ndarray:
    """Pixels that a true and a predicted segment share: int64 [1 + T, 1 + P], row 0 and column 0 for void.

    Panoptic maps consist of long runs of one id, so runs are looked up instead of pixels.
    """
    true_map, predicted_map = target.ids.cpu().numpy(), prediction.ids.cpu().numpy()
    if true_map.shape != predicted_map.shape:
        raise ValueError(f"predicted ids have shape {predicted_map.shape}, true ids {true_map.shape}")
    true_map, predicted_map = true_map.ravel(), predicted_map.ravel()
    changes = (true_map[1:] != true_map[:-1]) | (predicted_map[1:] != predicted_map[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=true_map.size)
    rows = _positions(true_map[starts], true_ids, "true")
    columns = _positions(predicted_map[starts], predicted_ids, "predicted")
    shape = 1 + len(true_ids), 1 + len(predicted_ids)
    pixels = np.bincount(rows * shape[1] + columns, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def _positions(values: np.ndarray, ids: np.ndarray, which: str) -> np.ndarray:
    """1 + the position of each value in `ids`, 0 for void. ValueError if a value is not in `ids`."""
    ids = np.concatenate([[VOID], ids])
    order = ids.argsort()
    positions = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    unknown = values[ids[positions] != values]
    if unknown.size:
        raise ValueError(f"{which} segment {unknown[0]} has no label")
    return positions


def _mean(values: np.ndarray) -> float:
    """The exact mean of the values that are not NaN; NaN if there is none."""
    values = values[~np.isnan(values)]
    return math.fsum(values) / len(values) if len(values) else math.nan
