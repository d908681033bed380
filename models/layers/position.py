"""Where a pixel lies, as features of sines and cosines. Vaswani et al., NeurIPS 2017; for images Carion et al., "DETR",
ECCV 2020.
"""

import math

import torch
from torch import Tensor

from structures import Size

TEMPERATURE = 10_000


def sine_position(size: Size, channels: int, device: torch.device, whole_turn: bool = False) -> Tensor:
    """What tells each pixel's row (first half of the channels) and column, [H * W, C].

    Rows and columns count from 1; with whole_turn the last of them is 2 pi, as in DETR.
    """
    half = channels // 2
    frequencies = TEMPERATURE ** -(torch.arange(0, half, 2, device=device) / half)
    axes = []
    for length in size:
        places = torch.arange(1, length + 1, device=device)[:, None] * (2 * math.pi / length if whole_turn else 1)
        angles = places * frequencies
        axes.append(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
    rows, columns = axes
    return torch.cat([rows[:, None].expand(*size, half), columns.expand(*size, half)], dim=2).flatten(0, 1)
