"""Panoptic quality (Kirillov et al., CVPR 2019, sections 4.1 and 4.2), with the rules of COCO's panopticapi.

What stays of an image is the IoU of each match, 8 bytes, and counts. Sums of IoUs are rounded once, at their end, so
neither the order of the images nor the number of processes changes a digit.
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
    """Nothing to choose."""

    name: Literal["panoptic_quality"] = "panoptic_quality"

    def build(self, info: DatasetInfo) -> "PanopticQuality":
        """The metric for the classes of `info`. Raises UserError if its task is another."""
        if info.task != "panoptic":
            what = f"{info.name} is {info.task} data, which does not divide images into segments"
            raise UserError("metrics.panoptic_quality", what, "choose a metric of its task")
        return PanopticQuality(info.classes, info.things)


class Segments(NamedTuple):
    """The S segments of a map in the order of its `labels`. ids, labels: [S] int64. crowd: [S] bool."""

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class PanopticQuality(Metric):
    """PQ, SQ and RQ in percent, of all classes, things (_th) and stuff (_st); NaN for a group without any segment."""

    names = tuple(stat + group for group in ("", "_th", "_st") for stat in STATS)
    primary = "PQ"

    def __init__(self, classes: tuple[str, ...], things: tuple[bool, ...]) -> None:
        self._classes = classes
        self._things = np.array(things, bool)
        self._images: set[str] = set()
        self._ious = [array("d") for _ in classes]  # of the matches of each class: its true positives
        self._wrong = np.zeros((len(classes), 2), np.int64)  # false positives, false negatives
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
        """Take in predicted and true `panoptic` maps of equal sizes.

        ValueError if an image comes again, if sizes differ, and if ids and labels do not fit together.
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
        """Give every process the matches of all. ValueError if two processes scored the same image."""
        self._wrong = sum_over_processes(self._wrong)
        parts = gather_objects((self._images, self._ious))
        self._images = set().union(*(images for images, _ in parts))
        if len(self._images) < sum(len(images) for images, _ in parts):
            raise ValueError("two processes scored the same image")
        self._ious = [sum(of_class, array("d")) for of_class in zip(*(ious for _, ious in parts), strict=True)]

    def compute(self) -> dict[str, float]:
        """The nine numbers. Raises UserError if there was no segment to find."""
        if (self._hits() + self._wrong[:, 1]).sum() == 0:
            raise UserError("validation set", "not one segment is annotated", "check the annotations")
        values = self._values()
        groups = (np.ones_like(self._things), self._things, ~self._things)
        means = [100 * _mean(column[group]) for group in groups for column in values.T]
        return dict(zip(self.names, means, strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """class, thing, PQ, SQ and RQ in percent (None: class does not occur), TP, FP and FN."""
        counts = np.column_stack([self._hits(), self._wrong])
        return [
            {
                "class": name,
                "thing": thing,
                **{stat: None if np.isnan(value) else 100 * value for stat, value in zip(STATS, values, strict=True)},
                **dict(zip(("TP", "FP", "FN"), numbers, strict=True)),
            }
            for name, thing, values, numbers in zip(
                self._classes, self._things.tolist(), self._values().tolist(), counts.tolist(), strict=True
            )
        ]

    def _add(self, true: Panoptic, found: Panoptic) -> None:
        """Match the segments of one image."""
        truth, guess = _segments(true, len(self._classes)), _segments(found, len(self._classes))
        overlaps = _overlaps(true, found, truth.ids, guess.ids)
        areas = overlaps[:, 1:].sum(axis=0)
        if not areas.all():
            raise ValueError(f"predicted segment {guess.ids[areas == 0][0]} has a label and no pixel")
        on_void, inside = overlaps[0, 1:], overlaps[1:, 1:]
        unions = overlaps[1:].sum(axis=1, keepdims=True) + areas - inside - on_void
        # Halves are compared in integers: exactly.
        matches = (2 * inside > unions) & (truth.labels[:, None] == guess.labels) & ~truth.crowd[:, None]
        for row, column in np.argwhere(matches):
            self._ious[truth.labels[row]].append(inside[row, column] / unions[row, column])

        ignored = on_void.copy()
        crowds = {label: row for row, label in enumerate(truth.labels.tolist()) if truth.crowd[row]}  # the last of each
        for column, label in enumerate(guess.labels.tolist()):
            ignored[column] += inside[crowds[label], column] if label in crowds else 0
        extra = guess.labels[~matches.any(axis=0) & (2 * ignored <= areas)]
        missed = truth.labels[~matches.any(axis=1) & ~truth.crowd]
        self._wrong += np.stack([np.bincount(labels, minlength=len(self._classes)) for labels in (extra, missed)], 1)

    def _hits(self) -> np.ndarray:
        """[K] int64: true positives."""
        return np.array([len(ious) for ious in self._ious], np.int64)

    def _values(self) -> np.ndarray:
        """PQ, SQ and RQ of each class from 0 to 1, [K, 3] float64; NaN where there is nothing to score."""
        hits = self._hits()
        sums = np.array([math.fsum(ious) for ious in self._ious])  # exact, hence the same in any order
        weights = hits + 0.5 * self._wrong.sum(axis=1)
        empty = np.where(weights > 0, 0.0, np.nan)
        pq, rq = (np.divide(part, weights, out=empty.copy(), where=weights > 0) for part in (sums, hits))
        sq = np.divide(sums, hits, out=empty, where=hits > 0)
        return np.stack([pq, sq, rq], axis=1)


def _segments(panoptic: Panoptic, num_classes: int) -> Segments:
    """The segments of a map. ValueError if one is the void or of no class."""
    for segment, label in panoptic.labels.items():
        if segment == VOID or not 0 <= label < num_classes:
            raise ValueError(
                f"segment {segment} has label {label}; {VOID} is void, labels go from 0 to {num_classes - 1}"
            )
    ids, labels = np.array(list(panoptic.labels.items()), np.int64).reshape(-1, 2).T
    return Segments(ids, labels, np.array([panoptic.crowd.get(segment, False) for segment in panoptic.labels], bool))


def _overlaps(true: Panoptic, found: Panoptic, true_ids: np.ndarray, found_ids: np.ndarray) -> np.ndarray:
    """Pixels of the void and each true segment [1 + T] in the void and each found one [1 + P], int64.

    A map is long runs of one id, so what is looked up are runs and not pixels.
    """
    if true.ids.shape != found.ids.shape:
        raise ValueError(f"predicted ids of shape {tuple(found.ids.shape)}, true ones of {tuple(true.ids.shape)}")
    true_map, found_map = true.ids.cpu().numpy().ravel(), found.ids.cpu().numpy().ravel()
    changes = (true_map[1:] != true_map[:-1]) | (found_map[1:] != found_map[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=true_map.size)
    rows = _positions(true_map[starts], true_ids, "true")
    columns = _positions(found_map[starts], found_ids, "predicted")
    shape = 1 + len(true_ids), 1 + len(found_ids)
    pixels = np.bincount(rows * shape[1] + columns, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def _positions(values: np.ndarray, ids: np.ndarray, which: str) -> np.ndarray:
    """1 + where each value stands in `ids`, 0 for the void. ValueError if one stands nowhere."""
    ids = np.concatenate([[VOID], ids])
    order = ids.argsort()
    positions = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    unknown = values[ids[positions] != values]
    if unknown.size:
        raise ValueError(f"{which} segment {unknown[0]} has no label")
    return positions


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers; NaN if none is."""
    values = values[~np.isnan(values)]
    return math.fsum(values) / len(values) if len(values) else math.nan
