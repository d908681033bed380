"""Mean intersection over union for semantic segmentation, of whole masks (mIoU) and of boundary bands (boundary IoU).

Boundary IoU (Cheng et al., CVPR 2021) is defined for binary masks. Here it is applied to semantic maps class by class:
in each image the masks (label = c) and (prediction = c) are reduced to their pixels near the mask's boundary. Before
that, pixels without label are removed from the prediction too, so that both masks have a boundary along them. The rest
is as for mIoU.
"""

from typing import Any, Literal

import numpy as np
from torch import Tensor

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.boundary import BoundaryRatio, boundary_band, boundary_width
from metrics.distributed import sum_over_processes
from metrics.runs import pair_runs
from structures import DatasetInfo, Prediction, Target


class MeanIoUConfig(Schema):
    """boundary: also compute bIoU. boundary_ratio: width of the boundary bands as a fraction of the image diagonal."""

    name: Literal["mean_iou"] = "mean_iou"
    boundary: bool = True
    boundary_ratio: BoundaryRatio = 0.02

    def build(self, info: DatasetInfo) -> "MeanIoU":
        """The metric for the classes of `info`. Raises UserError if the task is not semantic."""
        if info.task != "semantic":
            what = f"{info.name} is {info.task} data, which has no class for every pixel"
            raise UserError("metrics.mean_iou", what, "choose a metric of its task")
        return MeanIoU(info.classes, self.boundary_ratio if self.boundary else None)


class MeanIoU(Metric):
    """mIoU, mAcc, aAcc and bIoU in percent, from sums over the data set.

    The state is [K, 3] int64 for whole masks and the same for boundary bands. Columns: pixels of each class in the
    labels, in the predictions, in both.
    """

    primary = "mIoU"

    def __init__(self, classes: tuple[str, ...], boundary_ratio: float | None) -> None:
        self._classes = classes
        self._boundary_ratio = boundary_ratio
        self.names = ("mIoU", "mAcc", "aAcc") if boundary_ratio is None else ("mIoU", "mAcc", "aAcc", "bIoU")
        self._areas = np.zeros((len(classes), 3), np.int64)
        self._bands = np.zeros((len(classes), 3), np.int64)
        self.protocol: dict[str, Any] = {
            "mIoU": "sums over the data set; mean over classes that occur in labels or predictions",
            "mAcc": "recall; mean over classes that occur in labels",
            "ignored_pixels": "count nowhere",
        }
        if boundary_ratio is not None:
            self.protocol["bIoU"] = (
                "per image and class c the bands of (label = c) and of (prediction = c), ignored pixels taken out of "
                "both before, the image border counting as boundary; then as mIoU"
            )
            self.protocol["boundary_ratio"] = boundary_ratio

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add predicted and true `semantic` maps of equal sizes."""
        for prediction, target in zip(predictions, targets, strict=True):
            labels, predicted = _array(target.semantic), _array(prediction.semantic)
            predicted = predicted | (labels >> 15)  # IGNORE where labels are, since -1 alone is negative
            self._areas += self._count(labels, predicted)
            if self._boundary_ratio is not None:
                width = boundary_width(target.size, self._boundary_ratio)
                self._bands += self._count(boundary_band(labels, width), boundary_band(predicted, width))

    def gather(self) -> None:
        """Sum the counts of all processes."""
        self._areas = sum_over_processes(self._areas)
        self._bands = sum_over_processes(self._bands)

    def compute(self) -> dict[str, float]:
        """mIoU, mAcc, aAcc and, with boundary, bIoU. Raises UserError if no pixel had a label."""
        labelled, _, correct = self._areas.T
        if labelled.sum() == 0:
            raise UserError("validation set", "no pixel has a label", "check the annotations and ignore_labels")
        values = {
            "mIoU": np.nanmean(_iou(self._areas)),
            "mAcc": np.nanmean(_ratio(correct, labelled)),
            "aAcc": correct.sum() / labelled.sum(),
        }
        if self._boundary_ratio is not None:
            values["bIoU"] = np.nanmean(_iou(self._bands))
        return {name: 100 * float(value) for name, value in values.items()}

    def per_class(self) -> list[dict[str, Any]]:
        """class, IoU, Acc, bIoU in percent (None: class does not occur) and its number of labelled pixels."""
        labelled, _, correct = self._areas.T
        columns = {"IoU": _iou(self._areas), "Acc": _ratio(correct, labelled)}
        if self._boundary_ratio is not None:
            columns["bIoU"] = _iou(self._bands)
        return [
            {
                "class": name,
                **{stat: None if np.isnan(values[k]) else 100 * float(values[k]) for stat, values in columns.items()},
                "pixels": int(labelled[k]),
            }
            for k, name in enumerate(self._classes)
        ]

    def _count(self, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Pixels of each class [K, 3]: in labels, in predicted, in both. Pixels with IGNORE are not counted."""
        labels, predicted, lengths = pair_runs(labels, predicted)
        rows, columns = labels.astype(np.int64) + 1, predicted.astype(np.int64) + 1
        pixels = lengths.astype(np.float64)  # sums are exact
        counts = [
            np.bincount(values, pixels, minlength=1 + len(self._classes))[1:]
            for values in (rows, columns, rows * (labels == predicted))
        ]
        return np.stack(counts, axis=1).astype(np.int64)


def _array(labels: Tensor | None) -> np.ndarray:
    assert labels is not None
    return labels.cpu().numpy()


def _iou(counts: np.ndarray) -> np.ndarray:
    labelled, predicted, both = counts.T
    return _ratio(both, labelled + predicted - both)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient; NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
