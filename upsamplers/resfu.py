"""ReSFU: A Refreshed Similarity-based Upsampler for Direct High-Ratio Feature Upsampling (arXiv 2407.02283, 2024).

Guided; made for one step by 2, 4 or 8 under a guide from a shallow layer. Each output pixel sums a 3 x 3 window of the
bilinearly enlarged x, whose taps are one low-res pixel apart, with weights from two similarities of x and guide.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Upsampler,
    UpsamplerConfig,
    at_least_float32,
    default_groups,
    require_whole,
    unshuffle,
)
from upsamplers.interpolate import bilinear_weights
from upsamplers.reassemble import pad, reassemble, shifted_views

KERNEL = 3
GROUPS = 4  # of the convolutions of a score
NORM_GROUPS = 8  # of its norms
SUBSAMPLING = 2  # the guided filter computes its coefficients at every second pixel
RADIUS = 8 // SUBSAMPLING  # of its windows, there
EPSILON = 0.001  # added to its variances
OUTSIDE = -1e7  # the score of taps outside the map


class ReSFU(Upsampler):
    """Sum windows of the enlarged x by refreshed similarities to the guide. x [B, C, H, W] -> [B, C, sH, sW].

    embedding: channels in which x and guide are compared. mid_channels: of the layers from differences to scores.
    Raises ValueError if 8 does not divide embedding and mid_channels.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        embedding: int = 32,
        mid_channels: int = 128,
    ) -> None:
        super().__init__(channels, guide_channels, scale)
        _check_sizes(embedding=embedding, mid_channels=mid_channels)
        self.norm_y = _group_norm(self.guide_channels)
        self.norm_x = _group_norm(channels)
        self.q = nn.Conv2d(self.guide_channels, embedding, 1)
        self.k = nn.Conv2d(channels, embedding, 1)
        self.semantic_scores = CentralDifferenceScores(embedding, mid_channels, scale)
        self.detail_scores = CentralDifferenceScores(embedding, mid_channels, scale)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        weights = self._weights(x, guide)[:, None, :, None]
        enlarged = _enlarge(at_least_float32(x), weights)
        return reassemble(enlarged, weights, dilation=self.scale, padding="replicate").to(x.dtype)

    def _weights(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """The weights of the taps on the enlarged x, [B, 9, sH, sW], in float32 or wider."""
        query = at_least_float32(self.q(self.norm_y(guide)))
        key = _enlarge(at_least_float32(self.k(self.norm_x(x))), query)
        scores = self.semantic_scores(key, guided_filter(query, key)) + self.detail_scores(_blur(query), query)
        inside = _taps_inside(query, self.scale)
        return torch.softmax(at_least_float32(scores).masked_fill(~inside, OUTSIDE), dim=1)

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. Enlarging and summing in one: windows of 5 x 5 pixels of x, with the borders' clamping."""
        s, (H, W) = self.scale, x.shape[2:]
        weights = unshuffle(self._weights(x, guide), s).reshape(-1, KERNEL, KERNEL, s, s, H, W)
        rows, columns = (_shifted_weights(length, s, x.device).to(weights.dtype) for length in (H, W))
        kernels = torch.einsum("btuijhw,tyih,uxjw->byxijhw", weights, rows, columns)
        return kernels.reshape(x.shape[0], 1, -1, s**2, H, W)

    def macs(self, height: int, width: int) -> int:
        """Convolutions, those of x at low resolution, the blur, and 9 per output element.

        The guided filter and interpolation are free.
        """
        scores = self.semantic_scores.macs() + self.detail_scores.macs()
        fine = self.q.weight.numel() + scores + KERNEL**2 * (self.q.out_channels + self.channels)
        return (self.k.weight.numel() + self.scale**2 * fine) * height * width

    def weight_count(self) -> int:
        """See Upsampler. The first convolutions of the scores count, which are no nn.Conv2d."""
        return super().weight_count() + self.semantic_scores.weight.numel() + self.detail_scores.weight.numel()


class CentralDifferenceScores(nn.Module):
    """Scores of the 3 x 3 taps around each pixel, from the differences of the keys there to the pixel's query.

    The paper's PCDC, "paired central difference convolution". Keys and queries are normalised by one norm.
    """

    def __init__(self, embedding: int, mid_channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(mid_channels, embedding // GROUPS, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.zeros(1, mid_channels, 1, 1))
        self.norm = nn.GroupNorm(NORM_GROUPS, embedding)
        self.channel_compressor = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(mid_channels, mid_channels, 1, groups=GROUPS),
            nn.ReLU(),
            nn.GroupNorm(NORM_GROUPS, mid_channels),
            nn.Conv2d(mid_channels, KERNEL**2, 1),
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, key: Tensor, query: Tensor) -> Tensor:
        """Keys and queries [B, e, h, w] -> scores [B, 9, h, w], taps row by row."""
        key, query = (self.norm(features.to(self.norm.weight.dtype)) for features in (key, query))
        around = F.conv2d(pad(key, self.dilation, "replicate"), self.weight, dilation=self.dilation, groups=GROUPS)
        centre = F.conv2d(query, self.weight.sum((2, 3), keepdim=True), groups=GROUPS)
        scores: Tensor = self.channel_compressor(around - centre + self.bias)
        return scores

    def macs(self) -> int:
        """For each pixel, as published."""
        convs = (layer for layer in self.channel_compressor if isinstance(layer, nn.Conv2d))
        centre = self.weight.numel() // KERNEL**2
        return self.weight.numel() + centre + sum(conv.weight.numel() for conv in convs)


def guided_filter(guide: Tensor, p: Tensor) -> Tensor:
    """Filter p so that in every window it is a linear function of the guide. Both [B, C, h, w], float32 or wider.

    K. He and J. Sun, "Fast Guided Filter", 2015, for each channel alone.
    """
    small_guide, small_p = (_every_second(each) for each in (guide, p))
    mean_guide, mean_p = _box_mean(small_guide), _box_mean(small_p)
    covariance = _box_mean(small_guide * small_p) - mean_guide * mean_p
    variance = _box_mean(small_guide * small_guide) - mean_guide * mean_guide
    slope = covariance / (variance + EPSILON)
    intercept = mean_p - slope * mean_guide
    slope, intercept = (_enlarge(_box_mean(each), guide) for each in (slope, intercept))
    return slope * guide + intercept


def _every_second(x: Tensor) -> Tensor:
    """Pixels 0, 2, 4, ...; of an odd number of rows or columns the last is left out, unless it is the only one."""
    rows, columns = (SUBSAMPLING * max(length // SUBSAMPLING, 1) for length in x.shape[2:])
    return x[:, :, :rows:SUBSAMPLING, :columns:SUBSAMPLING]


def _box_mean(x: Tensor) -> Tensor:
    """The mean of the pixels of the map in a window around each."""
    side = 2 * RADIUS + 1
    x = F.avg_pool2d(x, (side, 1), 1, (RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, RADIUS), count_include_pad=False)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Interpolate bilinearly to the size of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _blur(x: Tensor) -> Tensor:
    """Blur by a 3 x 3 Gaussian of standard deviation 1, borders replicated."""
    edge = math.exp(-0.5)
    edge, middle = edge / (1 + 2 * edge), 1 / (1 + 2 * edge)
    views = shifted_views(x, KERNEL, padding="replicate")
    rows = [edge * (left + right) + middle * centre for left, centre, right in zip(*[iter(views)] * 3, strict=True)]
    return edge * (rows[0] + rows[2]) + middle * rows[1]


def _taps_inside(x: Tensor, dilation: int) -> Tensor:
    """Whether the taps around each pixel lie in the map x [B, C, h, w] -> bool [9, h, w]."""
    rows, columns = (_steps_inside(length, dilation, x.device) for length in x.shape[2:])
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _steps_inside(length: int, dilation: int, device: torch.device) -> Tensor:
    """The same along one axis, [3, length]."""
    places = torch.arange(length, device=device) + dilation * torch.arange(-1, 2, device=device)[:, None]
    return (places >= 0) & (places < length)


def _shifted_weights(length: int, scale: int, device: torch.device) -> Tensor:
    """Along one axis, the weights of five pixels of x for the enlarged pixel one tap before, at and after each pixel.

    [3 taps, 5 pixels, s, length]; taps outside the map are 0.
    """
    weights = bilinear_weights(length, scale, False, device)  # of three pixels
    shifts = [F.pad(weights[..., :-1], (1, 0)), weights, F.pad(weights[..., 1:], (0, 1))]
    return torch.stack([F.pad(each, (0, 0, 0, 0, tap, 2 - tap)) for tap, each in enumerate(shifts)])


def _check_sizes(**sizes: int) -> None:
    require_whole(**sizes)
    for name, size in sizes.items():
        if size % NORM_GROUPS:
            raise ValueError(f"{name} must be a multiple of {NORM_GROUPS}, got {size}")


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(default_groups("resfu norm", channels, preferred=min(32, channels)), channels)


@dataclass(frozen=True)
class ReSFUConfig(UpsamplerConfig):
    """The options of ReSFU. The defaults are those of the paper."""

    name: Literal["resfu"] = "resfu"
    embedding: int = 32
    mid_channels: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sizes(embedding=self.embedding, mid_channels=self.mid_channels)

    def construct(self, channels: int, guide_channels: int, scale: int) -> ReSFU:
        """See UpsamplerConfig. guide_channels may differ from channels."""
        return ReSFU(channels, guide_channels, scale, self.embedding, self.mid_channels)
