"""Runs of equal pixels. Label maps consist of long ones, so that they are counted faster than pixels."""

import numpy as np


def pair_runs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The R runs in which two maps of one shape, read row by row, are constant: both values and length, [R] each."""
    left, right = left.ravel(), right.ravel()
    changes = left[1:] != left[:-1]
    changes |= right[1:] != right[:-1]
    starts = np.concatenate([np.zeros(min(left.size, 1), np.int64), np.flatnonzero(changes) + 1])
    return left[starts], right[starts], np.diff(starts, append=left.size)
