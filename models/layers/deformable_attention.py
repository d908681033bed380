"""Multi-scale deformable attention in plain PyTorch. Zhu et al., "Deformable DETR", ICLR 2021, section 4.1.

Every query reads a few points on every level, for every head. Together the values that are read would need much
memory: 1.85 GB in DepthFormer for one image of 416 x 544. So they are read and summed in chunks, and read again for the
gradient. Apart from the maps themselves, this needs memory for four times `_CHUNK_ELEMENTS_ON_...` elements.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from structures import Size
from upsamplers.base import at_least_float32

# Elements read at a time. On a CPU they should fit into the cache; an accelerator needs large kernels.
_CHUNK_ELEMENTS_ON_CPU, _CHUNK_ELEMENTS_ON_ACCELERATOR = 1 << 20, 1 << 24
_OFFSET_ELEMENTS_PER_CHUNK = 1 << 23  # elements of the offsets that are computed at a time


class DeformableAttention(nn.Module):
    """Deformable attention with a residual connection: tokens read from maps, and the result is added to them.

    heads: each has its share of the channels. points: that each head reads on each level. dropout: of the attention's
    result, before it is added.
    Initially each head looks in its own direction: its points lie one, two, ... steps from the reference point, all
    with the same weight.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.value, self.project):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.weights, self.value, self.project):
            nn.init.zeros_(layer.bias)
        angles = 2 * math.pi / heads * torch.arange(heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)  # onto the border of a square
        steps = torch.arange(1, points + 1)[:, None] * directions[:, None, None, :]
        self.offsets.bias.data.copy_(steps.expand(heads, levels, points, 2).flatten())

    def forward(
        self, tokens: Tensor, position: Tensor, source: Tensor, reference: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C].

        position: [N, C], position encoding, added to the tokens to predict offsets and weights. source: [B, S, C], the
        pixels of all levels, one level after another. reference: [N, 2], the reference points (x, y) in 0..1 from edge
        to edge of the map. sizes: (height, width) of each level.
        """
        values = self.value(source).unflatten(2, (self.heads, -1))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._attend(tokens, position, values, reference, sizes)
        # Offsets and weights are many times as large as the tokens. Without a gradient they need not be kept.
        result = torch.empty_like(tokens)
        queries = max(1, _OFFSET_ELEMENTS_PER_CHUNK // (2 * self.heads * self.levels * self.points))
        for start in range(0, tokens.shape[1], queries):
            chunk = slice(start, start + queries)
            result[:, chunk] = self._attend(tokens[:, chunk], position[chunk], values, reference[chunk], sizes)
        return result

    def _attend(
        self, tokens: Tensor, position: Tensor, values: Tensor, reference: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Like `forward`, with projected values [B, S, heads, D] instead of `source`."""
        query = tokens + position
        weights = self.weights(query).unflatten(2, (self.heads, -1)).softmax(dim=-1)
        shape = (self.heads, self.levels, self.points)
        attended = weighted_points(
            values,
            sizes,
            reference,
            self.offsets(query).unflatten(2, (*shape, 2)),
            weights.unflatten(3, shape[1:]),
        )
        return tokens + self.dropout(self.project(attended.flatten(2)))


def weighted_points(
    values: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """For each query and head, the weighted sum of the values at the sampling points of all levels, [B, N, heads, D].

    values: [B, S, heads, D], the pixels of all levels, one level after another. sizes: (height, width) of each level.
    reference: [N, 2], (x, y) in 0..1 from edge to edge. offsets: [B, N, heads, levels, P, 2], from the reference points
    to the sampling points, (x, y) in pixels of the level. weights: [B, N, heads, levels, P].
    Values are interpolated bilinearly between pixel centres, and zero outside. Positions and sums are float32 or wider;
    the result has the dtype of the values.
    """
    B, heads = values.shape[0], values.shape[2]
    # grid_sample needs maps [B * heads, D, h, w] and positions [B * heads, P, N, 2] in -1..1 from edge to edge.
    maps = at_least_float32(values).permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=2)
    offsets = at_least_float32(offsets).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    level_weights = at_least_float32(weights).permute(3, 0, 2, 4, 1).flatten(1, 2)
    total = values.new_zeros((), dtype=maps[0].dtype)
    for level, (h, w), offset, weight in zip(maps, sizes, offsets, level_weights, strict=True):
        pixel = torch.cat([offset.new_full((1,), 2 / w), offset.new_full((1,), 2 / h)])  # size in grid units
        grid = torch.addcmul(2 * reference - 1, offset, pixel)
        total = total + _sample_in_chunks(level.unflatten(2, (h, w)), grid, weight)
    return total.unflatten(0, (B, heads)).permute(0, 3, 1, 2).to(values.dtype)


def _sample_in_chunks(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Do `_sample_and_sum` in chunks, and again for the gradient, so that sampled values never exist as a whole."""
    if torch.compiler.is_compiling():  # the compiler fuses sampling and summing by itself, and would unroll the loops
        return _sample_and_sum(maps, grid, weights)
    checkpointed = functools.partial(checkpoint, _sample_and_sum, use_reentrant=False, preserve_rng_state=False)
    sample: Callable[..., Tensor] = checkpointed if torch.is_grad_enabled() else _sample_and_sum
    chunk = _CHUNK_ELEMENTS_ON_CPU if maps.device.type == "cpu" else _CHUNK_ELEMENTS_ON_ACCELERATOR
    chunk //= maps.shape[1] * weights.shape[1]
    queries = max(1, chunk)
    planes = max(1, chunk // weights.shape[2])
    rows = []
    for level, points, weight in zip(maps.split(planes), grid.split(planes), weights.split(planes), strict=True):
        columns = zip(points.split(queries, dim=2), weight.split(queries, dim=2), strict=True)
        rows.append(torch.cat([sample(level, *column) for column in columns], dim=2))
    return torch.cat(rows)


def _sample_and_sum(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Sample maps [M, D, h, w] at positions [M, P, N, 2], and sum over P with weights [M, P, N]. -> [M, D, N]."""
    values = F.grid_sample(maps, grid.contiguous(), "bilinear", "zeros", align_corners=False)
    return (values * weights[:, None]).sum(dim=2)
