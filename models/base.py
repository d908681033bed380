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
    """An image encoder. `feature_info` lists its levels from fine to coarse. in_channels: of the images, C.

    one_size: whether a traced graph serves only images of the size that it was traced with.
    """

    feature_info: tuple[FeatureInfo, ...]
    in_channels: int = 3
    one_size: bool = False

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
    def predict(self, batch: Batch) -> list[Prediction]:
        """For evaluation: one prediction per image, at the original size given by its target."""
