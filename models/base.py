"""What every model and backbone offers: the interfaces that the training and evaluation loops rely on."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from structures import Batch, Prediction


class FeatureInfo(NamedTuple):
    """Channels and stride (input pixels per feature pixel) of one level of a backbone."""

    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """An image encoder. `feature_info` lists its levels from fine to coarse."""

    feature_info: tuple[FeatureInfo, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> level i: [B, C_i, H / s_i, W / s_i], rounded up."""


class DenseModel(nn.Module, ABC):
    """A model of any task. Images reach it normalised and padded to multiples of `size_divisor`."""

    size_divisor: int = 32

    @abstractmethod
    def outputs(self, images: Tensor) -> dict[str, Any]:
        """Raw outputs of images [B, 3, H, W], before losses and post-processing; each model lists its keys."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Training: the losses, scalars, already weighted; their sum is minimised."""

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """Evaluation: one prediction per image, at the original size that its target names."""
