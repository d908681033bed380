"""What every dataset offers, and the sample that passes through the transforms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from structures import DatasetInfo, Instances, Panoptic, Prediction, Size, Target


@dataclass
class Objects:
    """The objects of one image as numpy arrays; the fields are those of `structures.Instances`.

    boxes: [N, 4] float32, xyxy, in pixels of the image as it is now. labels: [N] int64. crowd: [N] bool.
    masks: [N, H, W] bool, of the image as it is now. rles, xywh, areas: of the original image, for scoring only;
    transforms leave them as they are.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None
    rles: list[bytes] | None = None
    xywh: np.ndarray | None = None
    areas: np.ndarray | None = None

    def instances(self) -> Instances:
        """The same as tensors."""
        return Instances(
            boxes=torch.from_numpy(np.ascontiguousarray(self.boxes)),
            labels=torch.from_numpy(self.labels),
            crowd=torch.from_numpy(self.crowd),
            masks=None if self.masks is None else torch.from_numpy(np.ascontiguousarray(self.masks)),
            rles=self.rles,
            xywh=None if self.xywh is None else torch.from_numpy(self.xywh),
            areas=None if self.areas is None else torch.from_numpy(self.areas),
        )


@dataclass
class Sample:
    """One image on its way through the transforms, as numpy arrays; every map has the size of the image.

    image: [H, W, 3], RGB, uint8 until `normalize` makes it float32. size: the original (height, width).
    semantic: [H, W] int16, labels or IGNORE. depth: [H, W] float32 metres, 0 = not measured.
    panoptic: of the original image, for scoring only; transforms leave it as it is. seed: see `structures.Target`.
    """

    image_id: str
    size: Size
    image: np.ndarray
    semantic: np.ndarray | None = None
    depth: np.ndarray | None = None
    objects: Objects | None = None
    panoptic: Panoptic | None = None
    seed: int = 0

    def target(self) -> Target:
        """The annotation as tensors, in the geometry that the sample has now."""
        semantic = None if self.semantic is None else torch.from_numpy(np.ascontiguousarray(self.semantic))
        depth = None if self.depth is None else torch.from_numpy(np.ascontiguousarray(self.depth))
        instances = None if self.objects is None else self.objects.instances()
        return Target(
            self.image_id,
            self.size,
            semantic=semantic,
            instances=instances,
            panoptic=self.panoptic,
            depth=depth,
            seed=self.seed,
        )

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

    def unread(self) -> list[str]:
        """Images of stored predictions that no `read` has asked for, where the format keeps one file for all images."""
        return []


class DenseDataset(ABC):
    """The images and annotations of one split. Construction checks that the files exist and reads no image.

    groups: [len] int, None for one group: training puts `group_size` images of one group after another, so that
    those which are padded to one size have similar shapes. skipped: what the data set leaves out because it is
    unusable, a line each; logged, and part of every result. protocol: what else must be said of the data beside the
    numbers, as which of several published lists they follow.
    """

    info: DatasetInfo
    groups: np.ndarray | None = None
    group_size: int = 1
    skipped: Sequence[str] = ()
    protocol: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Image and annotation as stored. Raises `UserError` naming the file if one of them is unusable."""

    @abstractmethod
    def target(self, index: int) -> Target:
        """The annotation at original size, for scoring; decodes no image where the annotation tells the size."""
