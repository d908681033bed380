"""The two sums over a K x K window that the kernel-based upsamplers share, in bounded memory.

Both work in the sub-pixel layout, where all s² sub-pixels of a pixel read the same window of the low-res map, so that
its shifted views broadcast over them: nothing is unfolded or upsampled, and autograd keeps one padded copy of the map.
Windows reach over the border into zeros, and no weight is renormalised there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers.base import at_least_float32
from upsamplers.subpixels import shuffle


def reassemble(x: Tensor, kernels: Tensor) -> Tensor:
    """Each output pixel is the sum of its window in x, weighted by its own kernel (CARAFE, ICCV 2019, Eq. 3).

    x [B, C, H, W], kernels [B, G, K², s², H, W], taps row by row -> [B, C, sH, sW]. The C channels form G contiguous
    groups. Half-precision inputs are summed in float32.
    """
    B, C, H, W = x.shape
    G, taps, subpixel_count = kernels.shape[1:4]
    grouped = at_least_float32(x).reshape(B, G, C // G, 1, H, W)
    weights = at_least_float32(kernels).contiguous().unsqueeze(2).unbind(3)  # K² times [B, G, 1, s², H, W]
    views = _shifted(grouped, math.isqrt(taps))
    output = views[0] * weights[0]
    for view, weight in zip(views[1:], weights[1:], strict=True):
        output = torch.addcmul(output, view, weight)
    return shuffle(output.reshape(B, C, subpixel_count, H, W), math.isqrt(subpixel_count)).to(x.dtype)


def similarity(query: Tensor, key: Tensor, kernel: int) -> Tensor:
    """Inner products of each high-res query with the keys in its window (SAPA, NeurIPS 2022); 0 outside the map.

    query [B, D, s², H, W], key [B, D, H, W] -> [B, K², s², H, W], in float32 at least.
    """
    query, key = at_least_float32(query), at_least_float32(key)
    return torch.stack([(query * view).sum(1) for view in _shifted(key.unsqueeze(2), kernel)], dim=1)


def _shifted(x: Tensor, kernel: int) -> list[Tensor]:
    """The K² neighbours of every pixel as views of one zero-padded copy of x, window row by window row."""
    H, W = x.shape[-2:]
    padded = F.pad(x.contiguous(), (kernel // 2,) * 4)
    return [padded[..., dy : dy + H, dx : dx + W] for dy in range(kernel) for dx in range(kernel)]
