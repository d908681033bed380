"""Bring the objects and segments of two predictions into one order. Needs numpy only.

Whole predictions list what they have found. Rounding may swap two objects of nearly equal scores, or drop one whose
score or overlap is at a threshold; then all that follow would seem to differ.
"""

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
NEAR = 1.0  # pixels between the sides of the boxes of one object, at most


def match_objects(found: Arrays, wanted: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Both predictions with their common objects alone, in the order of `wanted`, and the share of all others.

    Each has boxes [N, 4], scores [N], labels [N] and perhaps masks [N, h, w]. Objects are the same if they have one
    label, and no side of their boxes is farther than NEAR; of several the nearest.
    """
    free = np.ones(len(found["boxes"]), bool)
    pairs = []
    for index, box in enumerate(wanted["boxes"]):
        distance = np.abs(found["boxes"] - box).max(axis=1, initial=0)
        distance[~free | (found["labels"] != wanted["labels"][index])] = np.inf
        if distance.size and distance.min() <= NEAR:
            pairs.append((int(distance.argmin()), index))
            free[pairs[-1][0]] = False
    count = max(len(found["boxes"]), len(wanted["boxes"]))
    ours, theirs = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    common = {name: found[name][ours] for name in wanted}, {name: value[theirs] for name, value in wanted.items()}
    return *common, 1 - len(pairs) / count if count else 0.0


def differing_pixels(found: Arrays, wanted: Arrays) -> float:
    """The share of pixels in other segments, whatever the segments' numbers.

    Each has ids [h, w], where 0 is void, and segment_labels [S] of segments 1 to S. To a wanted segment belongs the one
    of its label that covers most of it.
    """
    same = (found["ids"] == 0) & (wanted["ids"] == 0)
    labels = dict(enumerate(found["segment_labels"].ravel().tolist(), 1))
    for index, label in enumerate(wanted["segment_labels"], 1):
        inside = wanted["ids"] == index
        numbers, areas = np.unique(found["ids"][inside], return_counts=True)
        areas = areas * [labels.get(number) == label for number in numbers.tolist()]
        if areas.any():
            same |= inside & (found["ids"] == numbers[areas.argmax()])
    return float(1 - same.mean())


def are_lists_alike(found: Arrays, wanted: Arrays) -> bool:
    """Whether both list objects of the same kind: all outputs of one length, of one shape for each object."""
    lengths = {len(found[name]) if found[name].ndim else None for name in wanted}
    return len(lengths) == 1 and all(found[name].shape[1:] == value.shape[1:] for name, value in wanted.items())
