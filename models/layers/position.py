"""Sinusoidal position encoding. Vaswani et al., NeurIPS 2017; for images Carion et al., "DETR", ECCV 2020."""

import math

import torch
from torch import Tensor

from structures import Size

TEMPERATURE = 10_000


def sine_position(size: Size, channels: int, device: torch.device, normalised: bool = False) -> Tensor:
    """The position encoding of each pixel, [H * W, C]: the row in the first half of the channels, then the column.

    Rows and columns count from 1. normalised: scale them so that the last one is 2 pi, as in DETR.
    """
    half = channels // 2
    frequencies = TEMPERATURE ** -(torch.arange(0, half, 2, device=device) / half)
    axes = []
    for length in size:
        places = torch.arange(1, length + 1, device=device)[:, None].to(frequencies.dtype)
        if normalised:  # by a tensor: ONNX has no products with numbers that depend on the size
            places = places * places.new_full((1,), 2 * math.pi / length)
        angles = places * frequencies
        axes.append(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
    rows, columns = axes
    return torch.cat([rows[:, None].expand(*size, half), columns.expand(*size, half)], dim=2).flatten(0, 1)
