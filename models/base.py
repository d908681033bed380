"""Base classes of all models and backbones: the interfaces that the training and evaluation loops rely on."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from structures import Batch, Prediction


class FeatureInfo(NamedTuple):
    """Channels and stride (input pixels per feature pixel) of one feature level of a backbone."""

    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """An image encoder. `feature_info` lists its levels from fine to coarse. in_channels: of the images, C."""

    feature_info: tuple[FeatureInfo, ...]
    in_channels: int = 3

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, C, H, W] -> levels [B, C_i, H / s_i, W / s_i], sizes rounded up."""


class DenseModel(nn.Module, ABC):
    """A model for any task. Its input images are normalised and padded to multiples of `size_divisor`."""

    size_divisor: int = 32
    backbone: Backbone

    @abstractmethod
    def outputs(self, images: Tensor) -> dict[str, Any]:
        """Raw outputs for images [B, 3, H, W], before losses and post-processing. Each model documents its keys."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """For training: the losses by name, scalars, already weighted. Training minimises their sum."""

    @abstractmethod
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """What `predict` finds in one image, in tensors alone, so that it can be traced into a graph and exported.

        images: [1, C, H, W], padded. unpadded, size: [2] int64, (height, width) of the image without padding, and of
        the original one. The prediction is at the original size [h, w]:
        semantic: "semantic" [h, w] int32, labels. depth: "depth" [h, w] float32, metres. Objects, best first: "boxes"
        [N, 4] float32, "scores" [N] float32, "labels" [N] int64 and, with masks, "masks" [N, h, w] bool, all of them at
        once in memory. Panoptic: "ids" [h, w] int32, segments from 1 and 0 for void, and "segment_labels" [S] int64.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """For evaluation: one prediction per image, at the original size given by its target."""
