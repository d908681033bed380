"""How maps and positions lie in memory."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a pixel lie together, and pixels do not, in x [B, C, H, W]."""
    return x.permute(0, 2, 3, 1).is_contiguous() and not x.is_contiguous()  # within vmap, PyTorch asks no formats


def layout(x: Tensor) -> torch.memory_format:
    """`channels_last` if x is so, else contiguous."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """X itself if it is in one of few layouts, else contiguous.

    Maps [B, C, H, W] may be contiguous or channels_last. Positions [B, g, n, h, w, 2] may be contiguous, or contiguous
    as [B, 2, g, n, h, w].
    """
    if x.ndim == 4:
        return x.contiguous(memory_format=layout(x))
    return x if x.ndim == 6 and x.movedim(-1, 1).is_contiguous() else x.contiguous()
