"""Semantic segmentation: which classes are taken for which, and where: near boundaries or inside of regions."""

from typing import Any

import cv2
import numpy as np

from metrics.boundary import boundary_width
from structures import IGNORE, DatasetInfo, Prediction, Target
from tools.errors.base import NO_SCORES, Analysis, Grade, share

BOUNDARY_RATIO = 0.02  # width of the boundary as a fraction of the image diagonal, as in boundary IoU
MOST_CONFUSIONS = 16


class SemanticErrors(Analysis):
    """The confusion matrix, [K, K] int64: pixels of a class (row) that are predicted as a class (column)."""

    def __init__(self, info: DatasetInfo) -> None:
        self._classes = info.classes
        self.confusion = np.zeros((info.num_classes, info.num_classes), np.int64)
        self._near = np.zeros((info.num_classes, 2), np.int64)  # near boundaries: labelled, correct

    def add(self, prediction: Prediction, target: Target) -> Grade:
        """Count the `semantic` map of one image."""
        assert prediction.semantic is not None
        assert target.semantic is not None
        labels, predicted = target.semantic.cpu().numpy(), prediction.semantic.cpu().numpy()
        known, count = labels != IGNORE, len(self._classes)
        pairs = labels[known].astype(np.int64) * count + predicted[known]
        matrix = np.bincount(pairs, minlength=count * count).reshape(count, count)
        self.confusion += matrix
        near = known & near_boundary(labels, boundary_width(target.size, BOUNDARY_RATIO))
        right = labels[near & (labels == predicted)]
        self._near += np.stack([np.bincount(part, minlength=count) for part in (labels[near], right)], axis=1)
        wrong = matrix - np.diag(np.diag(matrix))
        if not wrong.any():
            return Grade(0.0, "every labelled pixel is right")
        row, column = divmod(int(wrong.argmax()), count)
        badness = share(wrong.sum(), matrix.sum())
        most = f"{self._classes[row]} as {self._classes[column]} ({share(wrong[row, column], matrix.sum()):.1f} %)"
        return Grade(badness, f"{badness:.1f} % of the pixels are wrong, most of them {most}")

    def record(self) -> dict[str, Any]:
        """Accuracies and IoUs in percent, and counts of pixels."""
        labelled, guessed, correct = self.confusion.sum(1), self.confusion.sum(0), self.confusion.diagonal()
        inside = np.stack([labelled, correct], axis=1) - self._near
        per_class = [
            {
                "class": name,
                "pixels": int(labelled[label]),
                "IoU": share(correct[label], labelled[label] + guessed[label] - correct[label]),
                "recall": share(correct[label], labelled[label]),
                "precision": share(correct[label], guessed[label]),
                "boundary": share(self._near[label, 1], self._near[label, 0]),
                "interior": share(inside[label, 1], inside[label, 0]),
            }
            for label, name in enumerate(self._classes)
        ]
        wrong = self.confusion - np.diag(correct)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS].tolist()
        pairs = [divmod(place, len(self._classes)) for place in order]
        return {
            "mIoU": float(np.nanmean([row["IoU"] for row in per_class])) if labelled.any() else float("nan"),
            "accuracy": share(correct.sum(), labelled.sum()),
            "boundary": {"accuracy": share(*self._near.sum(0)[::-1]), "pixels": int(self._near[:, 0].sum())},
            "interior": {"accuracy": share(*inside.sum(0)[::-1]), "pixels": int(inside[:, 0].sum())},
            "boundary_ratio": BOUNDARY_RATIO,
            "per_class": per_class,
            "confusions": [
                {
                    "true": self._classes[row],
                    "predicted": self._classes[column],
                    "pixels": int(wrong[row, column]),
                    "share_of_errors": share(wrong[row, column], wrong.sum()),
                }
                for row, column in pairs
                if wrong[row, column]
            ],
            "confusion": self.confusion.tolist(),
            "calibration": {"ece": None, "reason": NO_SCORES},
        }


def near_boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Where the square of side 2 * width + 1 around a pixel has another label, or none: [H, W] bool.

    The border of the image is no boundary. labels: [H, W] int16.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    smallest = cv2.erode(labels, square, borderType=cv2.BORDER_REPLICATE)
    largest = cv2.dilate(labels, square, borderType=cv2.BORDER_REPLICATE)
    different: np.ndarray = smallest != largest
    return different
