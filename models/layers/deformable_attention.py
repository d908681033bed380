"""Multi-scale deformable attention in plain PyTorch. Zhu et al., "Deformable DETR", ICLR 2021, section 4.1.

Every query reads a few points of every level and of every head's channels. All values that are read are many: in
DepthFormer, for one image of 416 x 544, 1.85 GB. So they are read and summed up part by part, and read again for the
gradient: beyond the maps themselves, memory holds four times `_AT_ONCE` numbers.
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

# Numbers read at a time. On a CPU they should stay in its cache; an accelerator wants large kernels.
_AT_ONCE_ON_CPU, _AT_ONCE_ON_ACCELERATOR = 1 << 20, 1 << 24
_POINTS_AT_ONCE = 1 << 23  # numbers that tell where to read


class DeformableAttention(nn.Module):
    """Adds to tokens what they read from maps. heads: each with its share of the channels and `points` points a level.

    At the start every head looks in a direction of its own, from the reference point on one step a point, and weighs
    all points alike. dropout: of what is added.
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
        """Tokens [B, N, C] at reference points [N, 2] -> [B, N, C].

        position: [N, C], added to the tokens for choosing points and weights. source: [B, S, C], the pixels of all
        levels, one level after another; sizes: of the levels. reference: (x, y) in 0..1 from edge to edge of the map.
        """
        values = self.value(source).unflatten(2, (self.heads, -1))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._attended(tokens, position, values, reference, sizes)
        # What tells the points is many times as large as the tokens; without a gradient it need not be kept.
        result = torch.empty_like(tokens)
        queries = max(1, _POINTS_AT_ONCE // (2 * self.heads * self.levels * self.points))
        for start in range(0, tokens.shape[1], queries):
            part = slice(start, start + queries)
            result[:, part] = self._attended(tokens[:, part], position[part], values, reference[part], sizes)
        return result

    def _attended(
        self, tokens: Tensor, position: Tensor, values: Tensor, reference: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """As `forward`, from the values [B, S, heads, D] that are read."""
        query = tokens + position
        weights = self.weights(query).unflatten(2, (self.heads, -1)).softmax(dim=-1)
        shape = (self.heads, self.levels, self.points)
        read = weighted_points(
            values,
            sizes,
            reference,
            self.offsets(query).unflatten(2, (*shape, 2)),
            weights.unflatten(3, shape[1:]),
        )
        return tokens + self.dropout(self.project(read.flatten(2)))


def weighted_points(
    values: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """For each query and head, the weighted sum of values at points of all levels, [B, N, heads, D].

    values: [B, S, heads, D], the pixels of all levels, one level after another. Points lie `offsets`
    [B, N, heads, levels, P, 2], pixels (x, y), from the reference points [N, 2], (x, y) in 0..1 from edge to edge.
    weights: [B, N, heads, levels, P]. Between pixel centres values are interpolated bilinearly, outside they are zero.
    Positions and sums are float32 at least; the result has the dtype of the values.
    """
    B, heads = values.shape[0], values.shape[2]
    # What grid_sample reads: maps [B * heads, D, h, w] at positions [B * heads, P, N, 2] in -1..1 from edge to edge.
    maps = at_least_float32(values).permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], dim=2)
    offsets = at_least_float32(offsets).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    level_weights = at_least_float32(weights).permute(3, 0, 2, 4, 1).flatten(1, 2)
    read = values.new_zeros((), dtype=maps[0].dtype)
    for level, (h, w), offset, weight in zip(maps, sizes, offsets, level_weights, strict=True):
        step = torch.cat([offset.new_full((1,), 2 / w), offset.new_full((1,), 2 / h)])  # of a pixel
        grid = torch.addcmul(2 * reference - 1, offset, step)
        read = read + _in_parts(level.unflatten(2, (h, w)), grid, weight)
    return read.unflatten(0, (B, heads)).permute(0, 3, 1, 2).to(values.dtype)


def _in_parts(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """`_read`, but part by part, and for the gradient again, so that what is read never exists as a whole."""
    if torch.compiler.is_compiling():  # a compiler fuses reading and summing by itself, and would unroll the loops
        return _read(maps, grid, weights)
    part = functools.partial(checkpoint, _read, use_reentrant=False, preserve_rng_state=False)
    read: Callable[..., Tensor] = part if torch.is_grad_enabled() else _read
    at_once = _AT_ONCE_ON_CPU if maps.device.type == "cpu" else _AT_ONCE_ON_ACCELERATOR
    at_once //= maps.shape[1] * weights.shape[1]
    queries = max(1, at_once)
    planes = max(1, at_once // weights.shape[2])
    rows = []
    for level, points, weight in zip(maps.split(planes), grid.split(planes), weights.split(planes), strict=True):
        columns = zip(points.split(queries, dim=2), weight.split(queries, dim=2), strict=True)
        rows.append(torch.cat([read(level, *column) for column in columns], dim=2))
    return torch.cat(rows)


def _read(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Maps [M, D, h, w] at positions [M, P, N, 2], summed with weights [M, P, N] over P: [M, D, N]."""
    values = F.grid_sample(maps, grid.contiguous(), "bilinear", "zeros", align_corners=False)
    return (values * weights[:, None]).sum(dim=2)
