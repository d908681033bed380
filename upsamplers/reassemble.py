"""The two sums over a K x K window that the kernel-based upsamplers share, in bounded memory.

Both work in the sub-pixel layout (see base.py). There all s² sub-pixels of a pixel read the same window of the low-res
map, so shifted views of the map broadcast over them. Nothing is unfolded or upsampled, and autograd keeps only one
padded copy of the map. With s = 1 the same sum filters a map at its own resolution. Outside the map windows read zeros;
weights are not renormalised there. On a CPU, compiled code does the same where it can: windows_cpu.py.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers import windows_cpu
from upsamplers.base import at_least_float32, shuffle, unshuffle

Borders = Literal["zeros", "replicate"]

_CHUNK_ELEMENTS = 1 << 20  # output elements of one chunk on a CPU


def reassemble(x: Tensor, kernels: Tensor, dilation: int = 1, padding: Borders = "zeros") -> Tensor:
    """Compute each output pixel as the sum of its window in x, weighted by its own kernel (CARAFE, ICCV 2019, Eq. 3).

    x [B, C, H, W], kernels [B, G, K², s², H, W] with taps row by row -> [B, C, sH, sW]. The C channels form G
    contiguous groups. dilation: pixels of x from tap to tap. padding: what windows read outside the map, zeros or its
    nearest pixel. Half-precision inputs are summed in float32.
    """
    if windows_cpu.covers(x, kernels):
        edge = math.isqrt(kernels.shape[2]) // 2 * dilation if padding == "replicate" else 0
        return windows_cpu.sum_windows(pad(x, edge, padding) if edge else x, kernels, dilation, edge)
    return plain_reassemble(x, kernels, dilation, padding)


def plain_reassemble(x: Tensor, kernels: Tensor, dilation: int = 1, padding: Borders = "zeros") -> Tensor:
    """`reassemble` in PyTorch's operators."""
    B, C, H, W = x.shape
    G, _, subpixel_count = kernels.shape[1:4]
    scale = math.isqrt(subpixel_count)
    grouped = at_least_float32(x).reshape(B, G, C // G, 1, H, W)
    weights = at_least_float32(kernels).contiguous().unsqueeze(2).unbind(3)  # K² times [B, G, 1, s², H, W]
    chunks = [
        shuffle(_sum_windows(chunk, weights, dilation, padding).flatten(1, 2), scale).unflatten(1, chunk.shape[1:3])
        for chunk in grouped.split(_channels_per_chunk(grouped, subpixel_count), dim=2)
    ]
    output = torch.cat(chunks, dim=2) if len(chunks) > 1 else chunks[0]
    return output.flatten(1, 2).to(x.dtype)


def _sum_windows(x: Tensor, weights: Sequence[Tensor], dilation: int, padding: Borders) -> Tensor:
    """Sum the weighted windows. x [B, G, c, 1, H, W], K² weights [B, G, 1, s², H, W] -> [B, G, c, s², H, W]."""
    views = shifted_views(x, math.isqrt(len(weights)), dilation, padding)
    first, *others = zip(views, weights, strict=True)
    output = first[0] * first[1]
    for view, weight in others:
        output.addcmul_(view, weight)  # in place is safe: no gradient needs the partial sum
    return output


def _channels_per_chunk(x: Tensor, subpixel_count: int) -> int:
    """How many channels of x [B, G, c, 1, H, W] to sum together: on a CPU only as many as fit into its caches."""
    B, G, channels, _, H, W = x.shape
    # A GPU is faster with all at once. Compiling and exporting would make the chunk size a constant of the graph.
    if not x.is_cpu or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return channels
    return max(1, min(channels, _CHUNK_ELEMENTS // max(1, B * G * subpixel_count * H * W)))


def similarity(query: Tensor, key: Tensor, kernel: int) -> Tensor:
    """Inner products of each high-res query with the keys in its window (SAPA, NeurIPS 2022); 0 outside the map.

    query [B, D, sH, sW], key [B, D, H, W] -> [B, K², s², H, W], in float32 or wider.
    """
    if windows_cpu.covers(query, key):
        return windows_cpu.score_windows(query, key, kernel).squeeze(1)
    return plain_similarity(query, key, kernel)


def plain_similarity(query: Tensor, key: Tensor, kernel: int) -> Tensor:
    """`similarity` in PyTorch's operators."""
    query, key = at_least_float32(unshuffle(query, query.shape[2] // key.shape[2])), at_least_float32(key)
    return torch.stack([(query * view).sum(1) for view in shifted_views(key.unsqueeze(2), kernel)], dim=1)


def shifted_views(x: Tensor, kernel: int, dilation: int = 1, padding: Borders = "zeros") -> list[Tensor]:
    """The K² shifted views [..., H, W] of one padded copy of x, row by row of the window."""
    H, W = x.shape[-2:]
    padded = pad(x, kernel // 2 * dilation, padding)
    steps = range(0, kernel * dilation, dilation)
    return [padded[..., dy : dy + H, dx : dx + W] for dy in steps for dx in steps]


def pad(x: Tensor, width: int, padding: Borders) -> Tensor:
    """Pad the last two dimensions on all sides. Unlike F.pad, "replicate" works for empty batches and in any shape."""
    if padding == "zeros":
        return F.pad(x.contiguous(), (width,) * 4)
    for dim in (-2, -1):
        shape = list(x.shape)
        shape[dim] = width
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([first.expand(shape), x, last.expand(shape)], dim=dim)
    return x
