"""Multi-scale deformable attention in plain PyTorch. Zhu et al., "Deformable DETR", ICLR 2021, section 4.1.

Every query reads a few points on every level, for every head. Together the values that are read would need much
memory: 1.85 GB in DepthFormer for one image of 416 x 544. `sample_points` never holds them all.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from structures import Size
from upsamplers.base import at_least_float32
from upsamplers.points import sample_points

_OFFSET_ELEMENTS_PER_CHUNK = 1 << 21  # elements of the offsets that are computed at a time


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
    heads = values.shape[2]
    # The heads are the groups of channels of `sample_points`, and the queries its output pixels, N x 1 of them.
    maps = at_least_float32(values).permute(0, 2, 3, 1).flatten(1, 2).split([h * w for h, w in sizes], dim=2)
    offsets = at_least_float32(offsets).permute(3, 0, 2, 4, 1, 5).unsqueeze(5)
    level_weights = at_least_float32(weights).permute(3, 0, 2, 4, 1).unsqueeze(5)
    total = values.new_zeros((), dtype=maps[0].dtype)
    for level, (h, w), offset, weight in zip(maps, sizes, offsets, level_weights, strict=True):
        size = torch.cat([offset.new_full((1,), w), offset.new_full((1,), h)])
        positions = reference[:, None] * size + offset
        total = total + sample_points(level.unflatten(2, (h, w)), positions, weight, "zeros")
    return total.flatten(2).unflatten(1, (heads, -1)).permute(0, 3, 1, 2).to(values.dtype)
