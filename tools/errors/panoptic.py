"""Panoptic segmentation: matched and unmatched segments, and how well the matched ones fit."""

from typing import Any

import numpy as np

from metrics.panoptic_quality import PanopticQuality
from structures import DatasetInfo, Prediction, Target
from tools.errors.base import NO_SCORES, Analysis, Grade, share

EDGES = np.linspace(50, 100, 11)  # of the histogram of IoUs, in percent


class PanopticErrors(Analysis):
    """Counts as PQ does: a match is a true and a predicted segment of one class with an IoU above 0.5."""

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._metric = PanopticQuality(info.classes, info.things)

    def add(self, prediction: Prediction, target: Target) -> Grade:
        """Count the segments of one image."""
        image = PanopticQuality(self._info.classes, self._info.things)
        for metric in (self._metric, image):
            metric.update([prediction], [target])
        ious = [iou for matches in image.matched_ious() for iou in matches]
        false, missed = (sum(row[name] for row in image.per_class()) for name in ("FP", "FN"))
        quality = share(sum(ious), len(ious) + (false + missed) / 2)
        found = len(ious) + missed
        text = f"PQ {quality:.1f}: {len(ious)} of {found} segments matched; {false} predicted without a match"
        return Grade(100 - quality if quality == quality else 0.0, text)

    def record(self) -> dict[str, Any]:
        """PQ's values in percent; of each class TP, FP, FN and the IoUs of its matches."""
        rows = self._metric.per_class()
        matches = [100 * np.array(values) for values in self._metric.matched_ious()]
        everything = np.concatenate([*matches, np.zeros(0)])
        for row, ious in zip(rows, matches, strict=True):
            low, middle = np.percentile(ious, (10, 50)).tolist() if len(ious) else (float("nan"),) * 2
            row["IoU"] = {
                "mean": float(ious.mean()) if len(ious) else float("nan"),
                "median": middle,
                "lowest_tenth": low,
            }
        return {
            "metrics": self._metric.compute(),
            **{name: sum(row[name] for row in rows) for name in ("TP", "FP", "FN")},
            "IoU": {
                "mean": float(everything.mean()) if len(everything) else float("nan"),
                "edges": EDGES.tolist(),
                "counts": np.histogram(everything, EDGES)[0].tolist(),
            },
            "per_class": rows,
            "calibration": {"ece": None, "reason": NO_SCORES},
        }
