"""COCOeval's precision and recall of a data set from the matches of its images, and its twelve numbers."""

from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from metrics.coco_matching import LOWEST, PARAMS, THRESHOLDS, unpacked


class Curves(NamedTuple):
    """precision: [T, R, K, A], at R recalls. recall: [T, K, A, M], with at most M numbers of detections per image.

    From 0 to 1, and -1 where there is nothing to score. Precision is that of the largest number of detections.
    """

    precision: np.ndarray
    recall: np.ndarray

    def stats(self) -> np.ndarray:
        """COCOeval's twelve numbers."""
        evaluator = COCOeval(iouType="bbox")
        # Its numbers need precision with the most detections only, so the same one may stand for all.
        precision = np.broadcast_to(self.precision[..., None], (*self.precision.shape, len(PARAMS.maxDets)))
        evaluator.eval = {"precision": precision, "recall": self.recall}
        with redirect_stdout(StringIO()):
            evaluator.summarize()
        stats: np.ndarray = evaluator.stats
        return stats


def accumulate(
    positives: np.ndarray, labels: np.ndarray, scores: np.ndarray, images: np.ndarray, flags: np.ndarray
) -> Curves:
    """Curves from the N detections of all images.

    positives: the objects to find, [K, A]. labels, scores: [N]. images: [N], the place of each detection's image in
    the order that decides between equal scores; ascending. flags: [N, FLAG_BYTES] of `match`. The detections of one
    image and class are in the order of `ranked`.
    """
    shape = len(THRESHOLDS), len(PARAMS.recThrs), len(positives), len(LOWEST)
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:], len(PARAMS.maxDets)), -1.0)
    by_class = np.argsort(labels, kind="stable")
    limits = np.searchsorted(labels[by_class], np.arange(len(positives) + 1))
    for label in np.flatnonzero(positives.any(axis=1)):
        rows = by_class[limits[label] : limits[label + 1]]
        ranks = np.arange(len(rows)) - np.searchsorted(images[rows], images[rows])
        order = np.argsort(-scores[rows], kind="stable")
        ranks, (matched, ignored) = ranks[order], unpacked(flags[rows[order]])
        for area in np.flatnonzero(positives[label]):
            for threshold, (hit, left_out) in enumerate(zip(matched[area], ignored[area], strict=True)):
                counted = np.flatnonzero(~left_out)
                hits = np.flatnonzero(hit[counted])
                count = positives[label, area]
                precision[threshold, :, label, area] = _precision(hits, count)
                hit_ranks = ranks[counted[hits]]
                recall[threshold, label, area] = [np.count_nonzero(hit_ranks < most) / count for most in PARAMS.maxDets]
    return Curves(precision, recall)


def _precision(hits: np.ndarray, positives: int) -> np.ndarray:
    """The precision at each of R recalls. hits: the places of the true among all detections, best first, from 0.

    Between two hits precision only falls, so its largest value at or after a detection is one at a hit.
    """
    true = np.arange(1, len(hits) + 1, dtype=float)
    false = hits + 1 - true
    values = np.append(np.maximum.accumulate((true / (false + true + np.spacing(1)))[::-1])[::-1], 0.0)
    found: np.ndarray = values[np.searchsorted(true / positives, PARAMS.recThrs)]
    return found
