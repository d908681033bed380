"""The six kinds of detection errors and the AP that each costs (Bolya et al., "TIDE", ECCV 2020).

Each wrong detection has one kind, the first that fits, by its IoU with the true objects:

    localisation    0.1 to 0.5 with one of its class
    classification  0.5 or more with one of another class
    duplicate       0.5 or more with one of its class that a better detection has found
    background      0.1 or less with all of them
    both            what is left: 0.1 to 0.5 with one of another class

and an object is missed if it is not found and no localisation or classification error is about it. What a kind costs is
the AP at IoU 0.5 with all errors of this kind repaired, less the AP as it is. Repaired means: localisation and
classification errors become right, or are removed if their object is found without them; duplicate, background and both
are removed; missed objects do not count. Detections on crowds of their class do not count, as in COCO.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
RIGHT, IGNORED = -1, -2  # kinds of detections that are no errors
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
RECALLS = np.linspace(0, 1, 101)


class Objects(NamedTuple):
    """The objects or the detections of one image. labels: [N] int64. areas: [N] float64. scores: [N], of detections."""

    labels: np.ndarray
    areas: np.ndarray
    scores: np.ndarray


class Kinds(NamedTuple):
    """What became of the D detections and T true objects of one image.

    kinds: [D], of KINDS, or RIGHT, or IGNORED. objects: [D], the object that a detection found, or that a localisation,
    classification or duplicate error is about, else -1. repairs: [D] bool, whether repairing makes it right.
    found, missed: [T] bool.
    """

    kinds: np.ndarray
    objects: np.ndarray
    repairs: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def sort_out(detected: Objects, true: Objects, ious: np.ndarray, on_crowd: np.ndarray) -> Kinds:
    """Find the kind of each detection of one image. ious: [D, T]. on_crowd: [D] bool, on a crowd of its class."""
    count, total = ious.shape
    kinds, objects = np.full(count, BACKGROUND), np.full(count, -1)
    repairs, found, claimed = np.zeros(count, bool), np.zeros(total, bool), np.zeros(total, bool)
    same = detected.labels[:, None] == true.labels[None, :]
    order = np.argsort(-detected.scores, kind="stable")
    for row in order.tolist() if total else ():
        free = np.where(same[row] & ~found, ious[row], 0.0)
        best = int(free.argmax())
        if free[best] >= FOREGROUND_IOU:
            kinds[row], objects[row], found[best] = RIGHT, best, True
    for row in order.tolist():
        if kinds[row] == RIGHT:
            continue
        if on_crowd[row]:
            kinds[row] = IGNORED
        elif total:
            kinds[row], objects[row] = _kind(ious[row], same[row], found)
            about = objects[row]
            if kinds[row] in (LOCALISATION, CLASSIFICATION) and not found[about]:
                repairs[row], claimed[about] = not claimed[about], True
    return Kinds(kinds, objects, repairs, found, ~found & ~claimed)


def _kind(ious: np.ndarray, same: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """The kind of one wrong detection, and the object that it is about."""
    own, others, taken = (np.where(which, ious, 0.0) for which in (same, ~same, same & found))
    best = int(own.argmax())
    if BACKGROUND_IOU <= own[best] <= FOREGROUND_IOU:
        return LOCALISATION, best
    if others.max() >= FOREGROUND_IOU:
        return CLASSIFICATION, int(others.argmax())
    if taken.max() >= FOREGROUND_IOU:
        return DUPLICATE, int(taken.argmax())
    return (BACKGROUND if ious.max() <= BACKGROUND_IOU else BOTH), -1


class Table(NamedTuple):
    """All detections [D] and objects [T] of a data set, in arrays.

    labels, scores, kinds, repairs, sizes: [D]; sizes: 0 to 2, of the object that a detection is about, else its own.
    repaired: [D], the label after the repair. true_labels, true_sizes, missed: [T].
    """

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    repairs: np.ndarray
    repaired: np.ndarray
    sizes: np.ndarray
    true_labels: np.ndarray
    true_sizes: np.ndarray
    missed: np.ndarray


Chosen = Callable[[np.ndarray], np.ndarray]  # of sizes: which errors are repaired


def average_precisions(table: Table, classes: int, kind: int | None = None, chosen: Chosen | None = None) -> np.ndarray:
    """AP at IoU 0.5 in percent of each class, [K]; NaN without objects. kind: with these errors repaired.

    chosen: repair only those of these sizes. A class whose objects are all missed has 100 once that is repaired.
    """
    labels, right = table.labels.copy(), table.kinds == RIGHT
    counts = np.bincount(table.true_labels, minlength=classes)
    keep, left = table.kinds != IGNORED, counts.copy()
    if kind == MISSED:
        gone = table.missed & (True if chosen is None else chosen(table.true_sizes))
        left -= np.bincount(table.true_labels[gone], minlength=classes)
    elif kind is not None:
        errors = (table.kinds == kind) & (True if chosen is None else chosen(table.sizes))
        repaired = errors & table.repairs
        labels[repaired], right = table.repaired[repaired], right | repaired
        keep &= ~errors | repaired
    values = np.full(classes, np.nan)
    for label in np.flatnonzero(counts).tolist():
        rows = np.flatnonzero(keep & (labels == label))
        rows = rows[np.argsort(-table.scores[rows], kind="stable")]
        values[label] = 100 * average_precision(right[rows], int(left[label])) if left[label] else 100
    return values


def average_precision(right: np.ndarray, total: int) -> float:
    """The mean over 101 recalls of the best precision at that recall or above, as COCO's.

    right: [D] bool, by descending score. total: the number of objects, above 0.
    """
    hits = np.cumsum(right)
    precisions = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(precisions, 0.0)[places].mean())
