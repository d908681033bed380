"""Predicting the whole image at once, and what predicting in parts shares: the windows and views of an image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import Transform
from datasets.colour import Normalize
from inference.settings import InferenceConfig
from inference.windows import Window, windows_of
from models.base import DenseModel
from structures import Batch, Prediction, Size


class Inference:
    """Predicts whole images with `model`.

    transforms: what an image goes through before it is put into a batch. size_divisor: images in a batch are padded to
    multiples of it.
    """

    def __init__(self, model: DenseModel, transforms: Sequence[Transform]) -> None:
        self.model = model
        self.transforms = tuple(transforms)
        self.size_divisor = model.size_divisor

    def predict(self, batch: Batch) -> list[Prediction]:
        """One prediction per image, at its original size; see `DenseModel.predict`."""
        return self.model.predict(batch)


@dataclass(frozen=True)
class View:
    """A part of an image as the network sees it. images: [1, C, h, w], padded. size: (height, width) without padding.

    mirrored: whether it is mirrored left to right.
    """

    images: Tensor
    size: Size
    mirrored: bool


class PartsInference(Inference):
    """Predicts images one by one, in windows and views.

    If the last transform is `normalize`, each view is normalised by itself and batches have grey levels, uint8: a large
    image takes a quarter of the memory.
    """

    def __init__(self, model: DenseModel, transforms: Sequence[Transform], settings: InferenceConfig) -> None:
        super().__init__(model, transforms)
        self.size_divisor = 1  # views are padded, not the image
        self.settings = settings
        self._normalize: Normalize | None = None
        last = self.transforms[-1]
        if isinstance(last, Normalize):
            self._normalize = last
            self.transforms = self.transforms[:-1]

    def grid(self, inputs: Size, original: Size, device: torch.device) -> tuple[list[Window], list[Window]]:
        """The windows along the height and along the width. inputs: size of the image that is given to the network."""
        rows, columns = (
            windows_of(*sides, self.settings.windows, side, device)
            for side, sides in enumerate(zip(inputs, original, strict=True))
        )
        return rows, columns

    def views(self, part: Tensor) -> Iterator[View]:
        """All views of a part [C, h, w] of an image."""
        if self._normalize is not None:
            mean, std = (
                torch.tensor(values, device=part.device) for values in (self._normalize.mean, self._normalize.std)
            )
            part = (part.float() - mean[:, None, None]) / std[:, None, None]
        for scale in self.settings.scales:
            resized = part[None]
            if scale != 1:
                height, width = (max(1, round(side * scale)) for side in part.shape[1:])
                resized = F.interpolate(resized, (height, width), mode="bilinear", antialias=scale < 1)
            for mirrored in (False, True)[: 1 + self.settings.flip]:
                height, width = resized.shape[2:]
                images = resized.flip(3) if mirrored else resized
                divisor = self.model.size_divisor
                yield View(F.pad(images, (0, -width % divisor, 0, -height % divisor)), (height, width), mirrored)
