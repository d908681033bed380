"""SAPA: Similarity-Aware Point Affiliation. Guide pixels gather the points of x that they resemble.

SAPA-B (NeurIPS 2022, with biased projections) compares with the pixels in a window, SAPA-D (arXiv 2307.08198, 2023)
with points at learned positions.
"""

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
    require_choice,
    require_divisor,
    require_odd,
    require_whole,
    shuffle,
)
from upsamplers.points import sample_points, score_points
from upsamplers.reassemble import reassemble, similarity

NORMS = ("layer", "group", "none")


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel. [B, C, H, W] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels to the last axis, where LayerNorm needs them, and back."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Sapa(Upsampler):
    """Reassemble x with kernels that are the softmax of guide-to-x similarities. x [B, C, H, W] -> [B, C, sH, sW].

    Similarities are not scaled by 1/√D. Keys outside the map take part in the softmax with score 0.
    norm: "layer" as for the DySample paper's numbers, "group" as in the current published code, or "none".
    Raises ValueError for another norm or an even kernel.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        norm: str = "layer",
        embedding: int = 32,
        kernel: int = 5,
    ) -> None:
        super().__init__(channels, guide_channels, scale)
        require_choice(NORMS, norm=norm)
        require_odd(kernel=kernel)
        self.kernel = kernel
        self.norm_y = _norm(norm, self.guide_channels)
        self.norm_x = _norm(norm, channels)
        self.q = nn.Conv2d(self.guide_channels, embedding, 1)
        self.k = nn.Conv2d(channels, embedding, 1)
        for projection in (self.q, self.k):
            nn.init.normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        return reassemble(x, self.kernels(x, guide))  # x itself, not its normalised form

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler."""
        query = self.q(self.norm_y(guide))
        key = self.k(self.norm_x(x))
        return torch.softmax(similarity(query, key, self.kernel), dim=1).unsqueeze(1)

    def macs(self, height: int, width: int) -> int:
        """Projections, each at its own resolution, and K²·D + K²·C per output pixel."""
        taps = self.kernel**2
        fine = self.q.weight.numel() + taps * self.q.out_channels + taps * self.channels
        return (self.k.weight.numel() + self.scale**2 * fine) * height * width


class SapaD(Upsampler):
    """Sum x at learned points, weighted by the softmax of guide-to-x similarities. x [B, C, H, W] -> [B, C, sH, sW].

    All sub-pixels of a pixel start at its centre; offsets are raw, in low-res pixels. Outside the map x and its keys
    are zero, and such points take part in the softmax with score 0. Similarities are not scaled by 1/√D.

    groups: contiguous channel groups, each with its own points and embedding; by default 4, or if 4 does not divide C,
    the largest smaller number that does. points: of each output pixel. embedding: channels in which a group compares.
    high_offset: each sub-pixel has its own offsets, else those of its low-res pixel.
    norm: "none" as published, "layer" or "group": of x and the guide before their projections; x itself is summed.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        norm: str = "none",
        embedding: int = 32,
        groups: int | None = None,
        points: int = 9,
        high_offset: bool = True,
    ) -> None:
        super().__init__(channels, guide_channels, scale)
        require_choice(NORMS, norm=norm)
        require_whole(embedding=embedding, points=points)
        groups = default_groups("sapa-d", channels, preferred=4) if groups is None else groups
        require_divisor(channels, groups=groups)
        self.groups, self.points, self.high_offset = groups, points, high_offset
        self.norm_y = _norm(norm, self.guide_channels)
        self.norm_x = _norm(norm, channels)
        self.q = nn.Conv2d(self.guide_channels, groups * embedding, 1)
        self.k = nn.Conv2d(channels, groups * embedding, 1)
        self.offset = nn.Conv2d(channels, groups * points * 2 * (scale**2 if high_offset else 1), 1)
        for projection in (self.q, self.k, self.offset):
            nn.init.normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        found = self.weighted_points(x, guide)
        return sample_points(x, found.positions, found.weights, found.padding)

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points:
        """See Upsampler."""
        normed = self.norm_x(x)
        offset = at_least_float32(self.offset(normed)).unflatten(1, (2 * self.groups * self.points, -1))
        B, _, _, H, W = offset.shape
        offset = shuffle(offset.expand(B, -1, self.scale**2, H, W), self.scale)
        offset = offset.unflatten(1, (self.groups, self.points, 2)).movedim(3, -1)  # [B, g, n, sH, sW, 2]
        starts = _pixel_centres(offset, self.scale)
        positions = starts + offset
        scores = score_points(self.q(self.norm_y(guide)), self.k(normed), positions, "zeros")
        return Points(starts, positions, torch.softmax(scores, dim=2), "zeros")

    def macs(self, height: int, width: int) -> int:
        """Projections, each at its own resolution; n·(D + C/g) per output pixel and group, 11 to read each of these."""
        read = self.points * (self.q.out_channels + self.channels)
        fine = self.q.weight.numel() + 12 * read
        coarse = self.k.weight.numel() + self.offset.weight.numel()
        return (coarse + self.scale**2 * fine) * height * width


def _pixel_centres(offset: Tensor, scale: int) -> Tensor:
    """For each output pixel of offset [..., sH, sW, 2] the centre of its low-res pixel, [sH, sW, 2]."""
    rows, columns = (
        torch.arange(length, device=offset.device).div(scale, rounding_mode="floor").to(offset.dtype) + 0.5
        for length in offset.shape[-3:-1]
    )
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "layer":
        return ChannelNorm(channels)
    return nn.GroupNorm(default_groups("sapa norm", channels, preferred=32), channels)


@dataclass(frozen=True)
class SapaConfig(UpsamplerConfig):
    """The options of SAPA-B and, with deform, of SAPA-D. The defaults are those of the papers' numbers.

    norm: by default "layer" for SAPA-B and "none" for SAPA-D. kernel is an option of SAPA-B; groups, points and
    high_offset are options of SAPA-D.
    """

    name: Literal["sapa"] = "sapa"
    deform: bool = False
    norm: Literal["layer", "group", "none"] | None = None
    embedding: int = 32
    kernel: int = 5
    groups: int | None = None
    points: int = 9
    high_offset: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(embedding=self.embedding, points=self.points)
        require_odd(kernel=self.kernel)
        if self.groups is not None:
            require_whole(groups=self.groups)
        if self.deform and self.kernel != 5:
            raise ValueError("kernel is an option of SAPA-B; with deform, points is that of SAPA-D")
        if not self.deform and (self.groups, self.points, self.high_offset) != (None, 9, True):
            raise ValueError("groups, points and high_offset are options of deform, which is off")

    def construct(self, channels: int, guide_channels: int, scale: int) -> Sapa | SapaD:
        """See UpsamplerConfig. guide_channels may differ from channels."""
        if not self.deform:
            return Sapa(channels, guide_channels, scale, self.norm or "layer", self.embedding, self.kernel)
        sizes = self.embedding, self.groups, self.points, self.high_offset
        return SapaD(channels, guide_channels, scale, self.norm or "none", *sizes)
