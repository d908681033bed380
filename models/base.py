"""Base classes of all models and backbones: the interfaces that the training and evaluation loops rely on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from errors import UserError, suggest
from structures import Batch, Prediction, Size


class FeatureInfo(NamedTuple):
    """Channels and stride (input pixels per feature pixel) of one feature level of a backbone."""

    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """An image encoder. `feature_info` lists its levels from fine to coarse. in_channels: of the images, C.

    parts: for layer-wise learning rates, in the order of use: the stem, then each stage or, of a plain transformer,
    each block. A part is a list of beginnings of the names of its parameters.
    one_size: whether a traced graph serves only images of the size that it was traced with.
    """

    feature_info: tuple[FeatureInfo, ...]
    in_channels: int = 3
    parts: Sequence[Sequence[str]]
    one_size: bool = False

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, C, H, W] -> levels [B, C_i, H / s_i, W / s_i], sizes rounded up."""


class DenseModel(nn.Module, ABC):
    """A model for any task. Its input images are normalised and padded to multiples of `size_divisor`.

    left_out: the parts that `model.weights` gave no values, though it should, with the reason; see `load_start`.
    """

    size_divisor: int = 32
    left_out: Mapping[str, str] = {}
    backbone: Backbone
    _frozen: Sequence[nn.Module] = ()

    @property
    def parts(self) -> list[list[str]]:
        """The parts of the backbone (see there), by the names of the parameters in this model."""
        return [[f"backbone.{name}" for name in part] for part in self.backbone.parts]

    def freeze(self, names: Sequence[str]) -> None:
        """Stop training the parts or weights of these dotted names, for good.

        Raises UserError if the model has no such, or if they would keep random numbers.
        """
        modules, weights = dict(self.named_modules()), dict(self.named_parameters())
        for name in names:
            if not name or (name not in modules and name not in weights):
                what = f"the model has no {name or 'part without a name'}"
                raise UserError("frozen", what, suggest(name, [known for known in modules if known]))
            if any(f"{part}.".startswith(f"{name}.") or f"{name}.".startswith(f"{part}.") for part in self.left_out):
                what = f"{name} would keep random numbers, since model.weights has no such weights"
                raise UserError("frozen", what, "take it out of frozen, or name other weights")
            (modules[name] if name in modules else weights[name]).requires_grad_(False)
        self._frozen = [modules[name] for name in names if name in modules]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """See nn.Module. Frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

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

    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """What the classes or depths of a prediction are chosen from: maps that can be averaged over parts of an image.

        images: [B, C, H, W], padded. unpadded: their (height, width) (h, w) without padding. Returns [B, K, h, w]
        float32, which the caller may change: class probabilities or scores, or with K = 1 depths in metres. Raises
        TypeError for models that predict objects or segments.
        """
        raise TypeError(f"{type(self).__name__} predicts no maps")

    @abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """For evaluation: one prediction per image, at the original size given by its target."""
