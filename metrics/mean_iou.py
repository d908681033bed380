"""Mean intersection over union for semantic segmentation, and the same with boundary bands (boundary IoU).

Boundary IoU: Cheng et al., CVPR 2021, defined for binary masks. For semantic maps it is applied here class by class: in
each image the masks (label = c) and (prediction = c) are cut down to their pixels near the mask's edge; pixels without
label are taken out of the prediction first, so that the edges of both run along them. The rest is as for mIoU.
"""

from math import hypot
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import Field
from torch import Tensor

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.distributed import sum_over_processes
from structures import IGNORE, DatasetInfo, Prediction, Size, Target

OUTSIDE = IGNORE - 1  # label of what lies outside the image: other than any label inside


class MeanIoUConfig(Schema):
    """boundary: also compute bIoU. boundary_ratio: width of the boundary bands as a share of the image diagonal."""

    name: Literal["mean_iou"] = "mean_iou"
    boundary: bool = True
    boundary_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.02

    def build(self, info: DatasetInfo) -> "MeanIoU":
        """The metric for the classes of `info`. Raises UserError if its task is another."""
        if info.task != "semantic":
            what = f"{info.name} is {info.task} data, which has no class for every pixel"
            raise UserError("metrics.mean_iou", what, "choose a metric of its task")
        return MeanIoU(info.classes, self.boundary_ratio if self.boundary else None)


class MeanIoU(Metric):
    """mIoU, mAcc, aAcc and bIoU in percent, from sums over the data set.

    It keeps one row of int64 per class: labelled pixels, predicted pixels, those in both; then the same of the bands.
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
        """Take in predicted and true `semantic` maps of equal sizes."""
        for prediction, target in zip(predictions, targets, strict=True):
            labels, predicted = _array(target.semantic), _array(prediction.semantic)
            predicted = np.where(labels == IGNORE, np.int16(IGNORE), predicted)
            self._areas += self._counts(labels, predicted)
            if self._boundary_ratio is not None:
                width = boundary_width(target.size, self._boundary_ratio)
                self._bands += self._counts(boundary_band(labels, width), boundary_band(predicted, width))

    def gather(self) -> None:
        """Add up the sums of all processes."""
        self._areas = sum_over_processes(self._areas)
        self._bands = sum_over_processes(self._bands)

    def compute(self) -> dict[str, float]:
        """mIoU, mAcc, aAcc and, with boundary, bIoU. Raises UserError if no pixel had a label."""
        labelled, _, right = self._areas.T
        if labelled.sum() == 0:
            raise UserError("validation set", "not one pixel has a label", "check the annotations and ignore_labels")
        numbers = {
            "mIoU": np.nanmean(_iou(self._areas)),
            "mAcc": np.nanmean(_ratio(right, labelled)),
            "aAcc": right.sum() / labelled.sum(),
        }
        if self._boundary_ratio is not None:
            numbers["bIoU"] = np.nanmean(_iou(self._bands))
        return {name: 100 * float(number) for name, number in numbers.items()}

    def per_class(self) -> list[dict[str, Any]]:
        """class, IoU, Acc, bIoU in percent (None: class does not occur) and its number of labelled pixels."""
        labelled, _, right = self._areas.T
        columns = {"IoU": _iou(self._areas), "Acc": _ratio(right, labelled)}
        if self._boundary_ratio is not None:
            columns["bIoU"] = _iou(self._bands)
        return [
            {
                "class": name,
                **{column: None if np.isnan(of[index]) else 100 * float(of[index]) for column, of in columns.items()},
                "pixels": int(labelled[index]),
            }
            for index, name in enumerate(self._classes)
        ]

    def _counts(self, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Pixels of each class [K, 3]: in labels, in predicted, in both. IGNORE counts as no class."""
        both = labels[labels == predicted]
        number = len(self._classes)
        counts = [np.bincount(values[values != IGNORE], minlength=number) for values in (labels, predicted, both)]
        return np.stack(counts, axis=1)


def boundary_width(size: Size, ratio: float) -> int:
    """Width of the band in pixels: `ratio` of the diagonal, rounded, at least 1."""
    return max(round(ratio * hypot(*size)), 1)


def boundary_band(labels: np.ndarray, width: int) -> np.ndarray:
    """The int16 map [H, W] with IGNORE in place of pixels farther than `width` from any other label or the outside.

    Eroding each class's mask `width` times by a 3 x 3 square removes the pixels whose (2 * width + 1)-square holds
    anything else. A smallest and a largest value over that square say so for all classes at once.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    smallest = cv2.erode(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=OUTSIDE)
    largest = cv2.dilate(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=OUTSIDE)
    return np.where(smallest == largest, np.int16(IGNORE), labels)


def _array(labels: Tensor | None) -> np.ndarray:
    assert labels is not None
    return labels.cpu().numpy()


def _iou(counts: np.ndarray) -> np.ndarray:
    labelled, predicted, both = counts.T
    return _ratio(both, labelled + predicted - both)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is empty."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
