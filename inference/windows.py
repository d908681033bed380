"""Windows that cover an image, and their weights where they overlap. Both are products of those of its two sides."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from config import Rate, Schema

Side = Annotated[int, Field(ge=16, le=2**16)]


class WindowConfig(Schema):
    """Windows over the image that the network would see, after the resizing of `data.test_transforms`.

    size: (height, width); of smaller images the whole side. overlap: of neighbours, as a share of the size; at least
    one pixel. The last window of a row or column ends at the image's edge, so it may overlap more (as in mmsegmentation
    and sahi). blend: weights of maps. linear: falling from the middle to the edges; mean: all the same, as in
    mmsegmentation. Weights sum to one at every pixel.
    """

    size: tuple[Side, Side]
    overlap: Rate = 0.25
    blend: Literal["linear", "mean"] = "linear"


@dataclass(frozen=True)
class Window:
    """A window along one side of an image.

    start, stop: its pixels of the network's input. first, end: the pixels of the original image that lie within.
    weights: of those, [end - first] float32. between: None if both images have the same size; else, for each of those
    pixels, the pixels of the window that bilinear resizing (align_corners=False) takes it from, and the second's share.
    """

    start: int
    stop: int
    first: int
    end: int
    weights: Tensor
    between: tuple[Tensor, Tensor, Tensor] | None

    def resize(self, maps: Tensor, dim: int) -> Tensor:
        """Maps with `stop - start` pixels along `dim`, at the original size there. Pixels are those of whole images."""
        if self.between is None:
            return maps
        lower, upper, share = self.between
        shape = [1] * maps.dim()
        shape[dim] = -1
        return torch.lerp(maps.index_select(dim, lower), maps.index_select(dim, upper), share.view(shape))


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows of `size` start on a side of `length`."""
    if size >= length:
        return [0]
    stride = max(1, min(size - 1, round(size * (1 - overlap))))
    return [*range(0, length - size, stride), length - size]


def windows_of(
    length: int, original: int, config: WindowConfig | None, side: int, device: torch.device
) -> list[Window]:
    """The windows of a side with `length` pixels in the network's input and `original` ones in the original image.

    config: None: one window. side: 0: the height, 1: the width.
    """
    size = length if config is None else min(config.size[side], length)
    position = ((torch.arange(original, dtype=torch.float64) + 0.5) * (length / original) - 0.5).clamp(0, length - 1)
    lower = position.long()
    share = position - lower
    upper = lower + (share > 0)
    parts = []
    total = torch.zeros(original, dtype=torch.float64)
    for start in starts(length, size, 0 if config is None else config.overlap):
        inside = torch.nonzero((lower >= start) & (upper < start + size)).flatten().tolist()
        if not inside:  # fewer original pixels than windows
            continue
        part = slice(inside[0], inside[-1] + 1)
        steps = torch.arange(part.stop - part.start, dtype=torch.float64) + 0.5
        weights = torch.minimum(steps, len(steps) - steps)
        if config is not None and config.blend == "mean":
            weights = torch.ones_like(steps)
        total[part] += weights
        parts.append((start, part, weights))
    return [
        Window(
            start,
            start + size,
            part.start,
            part.stop,
            (weights / total[part]).float().to(device),
            None
            if length == original
            else (
                (lower[part] - start).to(device),
                (upper[part] - start).to(device),
                share[part].float().to(device),
            ),
        )
        for start, part, weights in parts
    ]
