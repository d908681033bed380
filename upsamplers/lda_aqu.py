"""LDA-AQU: Adaptive Query-guided Upsampling via Local Deformable Attention (MM 2024).

Each output pixel attends to a 3 x 3 window around itself that is deformed by learned offsets. Offsets and window are in
pixels of the output.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Points,
    Upsampler,
    UpsamplerConfig,
    at_least_float32,
    default_groups,
    require_divisor,
    require_odd,
    require_positive,
    require_whole,
)
from upsamplers.points import sample_points, score_points
from upsamplers.sapa import ChannelNorm

OFFSET_KERNEL = 3


class LdaAqu(Upsampler):
    """Attend to learned points around each output pixel. x [B, C, H, W] -> [B, C, sH, sW].

    Queries are enlarged bilinearly with align_corners=True, and so are positions mapped to x. Outside the map x and its
    keys are zero, but such points take part in the softmax.

    reduction: C divided by the channels h of queries and keys. groups: contiguous groups of channels, each with its own
    points; the weights of the attention are common to all. By default 2, or if 2 does not divide h and C, 1.
    kernel: K, the side of the window. offset_range: how far a point can move, in pixels of the output.
    Raises ValueError if the kernel is even, or if the groups do not divide h and C.
    """

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        reduction: int = 4,
        groups: int | None = None,
        kernel: int = 3,
        offset_range: float = 11.0,
    ) -> None:
        super().__init__(channels, scale=scale)
        require_whole(reduction=reduction)
        require_odd(kernel=kernel)
        require_positive(offset_range=offset_range)
        hidden = max(1, channels // reduction)
        common = math.gcd(channels, hidden)
        groups = default_groups("lda_aqu", common, preferred=2) if groups is None else groups
        require_divisor(common, groups=groups)
        self.groups, self.kernel, self.offset_range = groups, kernel, offset_range
        width = hidden // groups
        self.layer_norm = ChannelNorm(channels)
        self.proj_q = nn.Conv2d(channels, hidden, 1, bias=False)
        self.proj_k = nn.Conv2d(channels, hidden, 1, bias=False)
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, OFFSET_KERNEL, padding=OFFSET_KERNEL // 2, groups=width, bias=False),
            ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2 * kernel**2, OFFSET_KERNEL, padding=OFFSET_KERNEL // 2),
        )
        self.relative_position_bias_table = nn.Parameter(torch.zeros(kernel**2, hidden))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for parameter in self.conv_offset[3].parameters():  # at first the window is not deformed
            nn.init.zeros_(parameter)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        found = self.weighted_points(x, guide)
        return sample_points(x, found.positions, found.weights, found.padding)

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points:
        """See Upsampler."""
        normed = self.layer_norm(x)
        query = at_least_float32(self.proj_q(normed))
        query = F.interpolate(query, scale_factor=float(self.scale), mode="bilinear", align_corners=True)
        window, offset = self._window(x, query), self._offsets(query)
        starts, positions = (_on_map(places, x) for places in (window, window + offset))
        query = query * query.shape[1] ** -0.5
        scores = score_points(query, self.proj_k(normed), positions, "zeros").sum(1)  # over all groups
        bias = torch.einsum("bchw,nc->bnhw", query, self.relative_position_bias_table.to(query.dtype))
        return Points(starts, positions, torch.softmax(scores + bias, dim=1).unsqueeze(1), "zeros")

    def _offsets(self, query: Tensor) -> Tensor:
        """Offsets (column, row) in pixels of the output. query [B, h, sH, sW] -> [B, g, K², sH, sW, 2]."""
        B, _, height, width = query.shape
        grouped = query.unflatten(1, (self.groups, -1)).flatten(0, 1).to(self.proj_q.weight.dtype)
        raw = at_least_float32(self.conv_offset(grouped))  # for each tap row, then column
        raw = raw.reshape(B, self.groups, self.kernel**2, 2, height, width).movedim(3, -1).flip(-1)
        return self.offset_range * torch.tanh(raw)

    def _window(self, x: Tensor, query: Tensor) -> Tensor:
        """(column, row) in pixels of the output, counted from 0: the window of each pixel, [K², sH, sW, 2]."""
        rows, columns = (torch.arange(length, dtype=query.dtype, device=query.device) for length in query.shape[2:])
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        steps = torch.arange(self.kernel, dtype=query.dtype, device=query.device) - self.kernel // 2
        taps = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)  # row by row
        return pixels + taps.reshape(-1, 1, 1, 2)

    def macs(self, height: int, width: int) -> int:
        """Convolutions, those of offsets at high resolution; K²·(h + C) per output pixel, 11 to read each of these."""
        convs = [layer for layer in self.conv_offset if isinstance(layer, nn.Conv2d)]
        fine = self.groups * sum(conv.weight.numel() for conv in convs)
        fine += 12 * self.kernel**2 * (self.proj_k.out_channels + self.channels)
        coarse = self.proj_q.weight.numel() + self.proj_k.weight.numel()
        return (coarse + self.scale**2 * fine) * height * width


def _on_map(places: Tensor, x: Tensor) -> Tensor:
    """From pixels of the output [..., sH, sW, 2], counted from 0, to positions on x; outermost centres coincide."""
    ratios = [
        places.new_full((1,), (length - 1) / max(output - 1, 1))
        for length, output in zip(x.shape[:1:-1], places.shape[-2:-4:-1], strict=True)  # columns, then rows
    ]
    return places * torch.cat(ratios) + 0.5


@dataclass(frozen=True)
class LdaAquConfig(UpsamplerConfig):
    """The options of LDA-AQU. The defaults are those of the paper."""

    name: Literal["lda_aqu"] = "lda_aqu"
    reduction: int = 4
    groups: int | None = None
    kernel: int = 3
    offset_range: float = 11.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(reduction=self.reduction)
        require_odd(kernel=self.kernel)
        require_positive(offset_range=self.offset_range)
        if self.groups is not None:
            require_whole(groups=self.groups)

    def construct(self, channels: int, guide_channels: int, scale: int) -> LdaAqu:
        """See UpsamplerConfig. guide_channels is ignored."""
        return LdaAqu(channels, scale, self.reduction, self.groups, self.kernel, self.offset_range)
