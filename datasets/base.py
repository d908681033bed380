"""What every dataset offers, and the sample that passes through the transforms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from structures import DatasetInfo, Prediction, Size, Target


@dataclass
class Sample:
    """One image on its way through the transforms, as numpy arrays; every map has the size of the image.

    image: [H, W, 3], RGB, uint8 until `normalize` makes it float32. size: the original (height, width).
    semantic: [H, W] int16, labels or IGNORE. depth: [H, W] float32 metres, 0 = not measured.
    """

    image_id: str
    size: Size
    image: np.ndarray
    semantic: np.ndarray | None = None
    depth: np.ndarray | None = None

    def target(self) -> Target:
        """The annotation as tensors, in the geometry that the sample has now."""
        semantic = None if self.semantic is None else torch.from_numpy(np.ascontiguousarray(self.semantic))
        depth = None if self.depth is None else torch.from_numpy(np.ascontiguousarray(self.depth))
        return Target(self.image_id, self.size, semantic=semantic, depth=depth)

    def without_annotation(self) -> "Sample":
        """The image alone."""
        return Sample(self.image_id, self.size, self.image)


class PredictionFiles(ABC):
    """Predictions of one dataset on disk, in the dataset's exchange format: written by evaluation, read for scoring."""

    @abstractmethod
    def write(self, prediction: Prediction, target: Target) -> None:
        """Store one image's prediction."""

    @abstractmethod
    def finish(self) -> None:
        """Called once in every process after the last `write`, where a format keeps one file for all images."""

    @abstractmethod
    def read(self, target: Target) -> Prediction:
        """The stored prediction for the image of `target`. Raises `UserError` if it is missing or malformed."""


class DenseDataset(ABC):
    """The images and annotations of one split. Construction checks that the files exist and reads no image."""

    info: DatasetInfo

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Image and annotation as stored. Raises `UserError` naming the file if one of them is unusable."""

    @abstractmethod
    def target(self, index: int) -> Target:
        """The annotation at original size, for scoring; decodes no image where the annotation tells the size."""
