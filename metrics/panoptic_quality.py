"""Panoptic quality (Kirillov et al., CVPR 2019, sections 4.1 and 4.2), with the rules of COCO's panopticapi.

The state is the IoU of each match, 8 bytes, and counts. Sums of IoUs are exact until a final rounding, so the values
depend neither on the order of the images nor on the number of processes.

Boundary PQ (Cheng et al., CVPR 2021) is the same with the smaller of the IoUs of two segments and of their boundaries.
"""

import math
from array import array
from typing import Any, Literal, NamedTuple

import numpy as np

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.boundary import BoundaryRatio, boundary_band, boundary_width
from metrics.distributed import gather_objects, sum_over_processes
from metrics.runs import pair_runs
from structures import IGNORE, DatasetInfo, Panoptic, Prediction, Size, Target

VOID = 0  # id of pixels without a segment
STATS = ("PQ", "SQ", "RQ")
COLUMNS = (*STATS, "TP", "FP", "FN")


class PanopticQualityConfig(Schema):
    """boundary: also compute boundary PQ. boundary_ratio: width of boundaries as a fraction of the image diagonal."""

    name: Literal["panoptic_quality"] = "panoptic_quality"
    boundary: bool = False
    boundary_ratio: BoundaryRatio = 0.02

    def build(self, info: DatasetInfo) -> "PanopticQuality":
        """The metric for the classes of `info`. Raises UserError if the task is not panoptic."""
        if info.task != "panoptic":
            what = f"{info.name} is {info.task} data, which does not divide images into segments"
            raise UserError("metrics.panoptic_quality", what, "choose a metric of its task")
        return PanopticQuality(info.classes, info.things, self.boundary_ratio if self.boundary else None)


class Segments(NamedTuple):
    """The S segments of a panoptic map, in the order of its `labels`. ids, labels: [S] int64. crowd: [S] bool."""

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class Tally:
    """What is counted for each class. ious: of each match, that is, of each true positive. errors: [K, 2] int64, false
    positives and false negatives.
    """

    def __init__(self, classes: int) -> None:
        self.ious = [array("d") for _ in range(classes)]
        self.errors = np.zeros((classes, 2), np.int64)

    def gather(self) -> None:
        """Add up the tallies of all processes."""
        self.errors = sum_over_processes(self.errors)
        self.ious = [sum(parts, array("d")) for parts in zip(*gather_objects(self.ious), strict=True)]

    def true_positives(self) -> np.ndarray:
        """The number of matches of each class, [K] int64."""
        return np.array([len(ious) for ious in self.ious], np.int64)

    def values(self) -> np.ndarray:
        """PQ, SQ and RQ of each class from 0 to 1, [K, 3] float64; NaN where there is nothing to score."""
        true_positives = self.true_positives()
        sums = np.array([math.fsum(ious) for ious in self.ious])  # exact, so independent of the order
        weights = true_positives + 0.5 * self.errors.sum(axis=1)
        empty = np.where(weights > 0, 0.0, np.nan)
        pq, rq = (np.divide(part, weights, out=empty.copy(), where=weights > 0) for part in (sums, true_positives))
        sq = np.divide(sums, true_positives, out=empty, where=true_positives > 0)
        return np.stack([pq, sq, rq], axis=1)


class PanopticQuality(Metric):
    """PQ, SQ and RQ in percent, over all classes, things (_th) and stuff (_st); NaN for a group without segments.

    With a boundary ratio the same of boundaries: bPQ, bSQ, bRQ.
    """

    primary = "PQ"

    def __init__(self, classes: tuple[str, ...], things: tuple[bool, ...], boundary_ratio: float | None = None) -> None:
        self._classes = classes
        self._things = np.array(things, bool)
        self._images: set[str] = set()
        self._boundary_ratio = boundary_ratio
        self._tallies = {kind: Tally(len(classes)) for kind in (("",) if boundary_ratio is None else ("", "b"))}
        groups = ("", "_th", "_st")
        self.names = tuple(kind + stat + group for kind in self._tallies for group in groups for stat in STATS)
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

        if boundary_ratio is not None:
            self.protocol["bPQ"] = (
                "as PQ, with the smaller of the IoUs of two segments and of their boundaries, both without what is "
                "predicted on void; as boundary-iou-api"
            )
            self.protocol["boundary_ratio"] = boundary_ratio

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
        parts = gather_objects(self._images)
        self._images = set().union(*parts)
        if len(self._images) < sum(map(len, parts)):
            raise ValueError("two processes scored the same image")
        for tally in self._tallies.values():
            tally.gather()

    def compute(self) -> dict[str, float]:
        """The nine values, or eighteen. Raises UserError if no segment is annotated."""
        whole = self._tallies[""]
        if (whole.true_positives() + whole.errors[:, 1]).sum() == 0:
            raise UserError("validation set", "no segment is annotated", "check the annotations")
        groups = (np.ones_like(self._things), self._things, ~self._things)
        tables = [tally.values() for tally in self._tallies.values()]
        means = [100 * _mean(column[group]) for table in tables for group in groups for column in table.T]
        return dict(zip(self.names, means, strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """class, thing, PQ, SQ and RQ in percent (None: class does not occur), TP, FP and FN; also with b in front."""
        records: list[dict[str, Any]] = [
            {"class": name, "thing": thing} for name, thing in zip(self._classes, self._things.tolist(), strict=True)
        ]
        for kind, tally in self._tallies.items():
            counts = np.column_stack([tally.true_positives(), tally.errors])
            for record, values, row in zip(records, tally.values().tolist(), counts.tolist(), strict=True):
                percents = [None if np.isnan(value) else 100 * value for value in values]
                record |= {kind + name: value for name, value in zip(COLUMNS, [*percents, *row], strict=True)}
        return records

    def matched_ious(self) -> list[list[float]]:
        """The IoU of each match, of each class, from 0 to 1."""
        return [ious.tolist() for ious in self._tallies[""].ious]

    def _add(self, target: Panoptic, prediction: Panoptic) -> None:
        """Match the segments of one image."""
        true, predicted = _segments(target, len(self._classes)), _segments(prediction, len(self._classes))
        overlaps = _overlaps(target, prediction, true.ids, predicted.ids)
        areas = overlaps[:, 1:].sum(axis=0)
        if not areas.all():
            raise ValueError(f"predicted segment {predicted.ids[areas == 0][0]} has a label and no pixel")
        intersections, unions = _intersections_and_unions(overlaps, true, predicted)
        # IoU > 0.5, compared in integers and so exactly.
        matches = (2 * intersections > unions) & (true.labels[:, None] == predicted.labels) & ~true.crowd[:, None]
        ious = intersections / np.maximum(unions, 1)
        self._count("", true, predicted, overlaps, ious, matches)
        if self._boundary_ratio is not None:
            bands = _boundary_overlaps(target, prediction, true.ids, predicted.ids, self._boundary_ratio)
            intersections, unions = _intersections_and_unions(bands, true, predicted)
            ious = np.minimum(ious, intersections / np.maximum(unions, 1))
            self._count("b", true, predicted, overlaps, ious, matches & (2 * intersections > unions))

    def _count(
        self,
        kind: str,
        true: Segments,
        predicted: Segments,
        overlaps: np.ndarray,
        ious: np.ndarray,
        matches: np.ndarray,
    ) -> None:
        """Add the matches [T, P] of one image and their IoUs to a tally, and what is left as errors."""
        tally = self._tallies[kind]
        for row, column in np.argwhere(matches):
            tally.ious[true.labels[row]].append(ious[row, column])
        areas, ignored, intersections = overlaps[:, 1:].sum(axis=0), overlaps[0, 1:].copy(), overlaps[1:, 1:]
        crowds = {label: row for row, label in enumerate(true.labels.tolist()) if true.crowd[row]}  # the last per class
        for column, label in enumerate(predicted.labels.tolist()):
            ignored[column] += intersections[crowds[label], column] if label in crowds else 0
        false_positives = predicted.labels[~matches.any(axis=0) & (2 * ignored <= areas)]
        false_negatives = true.labels[~matches.any(axis=1) & ~true.crowd]
        for column, labels in enumerate((false_positives, false_negatives)):
            tally.errors[:, column] += np.bincount(labels, minlength=len(self._classes))


def _intersections_and_unions(
    overlaps: np.ndarray, true: Segments, predicted: Segments
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of true and predicted segments in both and in either, without those predicted on void: two [T, P] int64.

    overlaps: of `_overlaps` or `_boundary_overlaps`.
    """
    rows, columns = slice(1, 1 + len(true.ids)), slice(1, 1 + len(predicted.ids))
    intersections, on_void = overlaps[rows, columns], overlaps[0, columns]
    areas = overlaps[:, columns].sum(axis=0)
    return intersections, overlaps[rows].sum(axis=1, keepdims=True) + areas - intersections - on_void


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
    true_values, predicted_values, lengths = pair_runs(true_map, predicted_map)
    rows = _positions(true_values, true_ids, "true")
    columns = _positions(predicted_values, predicted_ids, "predicted")
    shape = 1 + len(true_ids), 1 + len(predicted_ids)
    pixels = np.bincount(rows * shape[1] + columns, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def _boundary_overlaps(
    target: Panoptic, prediction: Panoptic, true_ids: np.ndarray, predicted_ids: np.ndarray, ratio: float
) -> np.ndarray:
    """Like `_overlaps` for the boundaries of segments: int64 [2 + T, 2 + P], the last row and column for interiors."""
    rows = _boundary_positions(target, true_ids, "true", ratio)
    columns = _boundary_positions(prediction, predicted_ids, "predicted", ratio)
    shape = 2 + len(true_ids), 2 + len(predicted_ids)
    pixels = np.bincount((rows.astype(np.int64) * shape[1] + columns).ravel(), minlength=shape[0] * shape[1])
    return pixels.reshape(shape)


def _boundary_positions(panoptic: Panoptic, ids: np.ndarray, which: str, ratio: float) -> np.ndarray:
    """1 + the position of each pixel's segment in `ids` if it is on the boundary of it, else 1 + len(ids); 0: void."""
    values = panoptic.ids.cpu().numpy()
    starts = np.concatenate([[0], 1 + np.flatnonzero(np.diff(values.ravel()))])
    runs = _positions(values.ravel()[starts], ids, which).astype(np.int16 if len(ids) < 2**15 - 2 else np.float32)
    positions = np.repeat(runs, np.diff(starts, append=values.size)).reshape(values.shape)
    size: Size = (values.shape[0], values.shape[1])
    band = boundary_band(positions, boundary_width(size, ratio))
    inside = (band == IGNORE) & (positions > 0)
    return np.where(inside, 1 + len(ids), positions).astype(np.int32)


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
