"""A2U: Learning Affinity-Aware Upsampling for Deep Image Matting (CVPR 2021), the dynamic, channel-shared variant.

Published for scale 2, with upsampling kernel 3, encoding kernel 6 and rank 1.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Upsampler,
    UpsamplerConfig,
    at_least_float32,
    default_groups,
    require_scale_two,
    shuffle,
    unshuffle,
)
from upsamplers.reassemble import reassemble

KERNEL = 3
ENCODING_KERNEL = 6


class A2U(Upsampler):
    """Reassemble x with kernels from the guide's second-order features. [B, C, H, W] -> [B, C, 2H, 2W].

    Raises ValueError if the scale is not 2.
    """

    uses_guide = True

    def __init__(self, channels: int, guide_channels: int | None = None, scale: int = 2) -> None:
        require_scale_two("a2u", scale)
        super().__init__(channels, guide_channels, scale)
        G = self.guide_channels
        groups = default_groups("a2u norm", G, preferred=32)
        self.bnu = nn.Sequential(nn.GroupNorm(groups, G), nn.LeakyReLU(inplace=True))
        self.bnv = nn.Sequential(nn.GroupNorm(groups, G), nn.LeakyReLU(inplace=True))
        self.bconv_UP = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(G, KERNEL**2 * scale**2, 1))
        self.bconv_U = nn.Sequential(_PoolToFilter(ENCODING_KERNEL), nn.Conv2d(G, 1, 1))
        self.bconv_V = nn.Sequential(_PoolToFilter(ENCODING_KERNEL), nn.Conv2d(G, 1, 1))

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, 2H, 2W] to [B, C, 2H, 2W]."""
        return reassemble(x, self.kernels(x, guide))

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler."""
        assert guide is not None
        B, _, H, W = x.shape
        filters = torch.cat([self.bconv_U(guide), self.bconv_V(guide)], dim=1)  # two 6 x 6 filters per sample
        encoded = filter_by_sample(guide, filters)
        u, v = self.bnu(encoded[:, 0]), self.bnv(encoded[:, 1])
        # In float32, because it sums over all channels of the guide.
        affinity = (at_least_float32(u) * at_least_float32(v)).sum(1, keepdim=True) / math.sqrt(self.guide_channels)
        logits = affinity * self.bconv_UP(guide)
        logits = logits.reshape(B, 1, KERNEL**2, self.scale**2, H, W)
        return torch.softmax(torch.sigmoid(logits), dim=2)

    def macs(self, height: int, width: int) -> int:
        """Two 6 x 6 filters per guide channel, the affinity, its outer product, and 9 per output element.

        The three convolutions of pooled maps cost a few thousand per image, whatever its size. Table 4 leaves them out.
        """
        encoding = 2 * ENCODING_KERNEL**2 * self.guide_channels + self.guide_channels
        reassembly = KERNEL**2 * self.scale**2 * (self.channels + 1)
        return (encoding + reassembly) * height * width


class _PoolToFilter(nn.AdaptiveAvgPool2d):
    """The same average over K x K windows. y [B, C, H, W] -> [B, C, K, K]."""

    def forward(self, y: Tensor) -> Tensor:
        """See the class."""
        if not torch.compiler.is_exporting():
            return super().forward(y)
        # PyTorch's decomposition is valid for the traced size alone (2.14), so windows are written as two products.
        rows, columns = (_window_weights(ENCODING_KERNEL, length, y) for length in y.shape[2:])
        return rows @ y @ columns.T


def _window_weights(count: int, length: int, y: Tensor) -> Tensor:
    """Which pixels each window averages, and their weights, [count, length]: from floor(i·L/n) to ceil((i+1)·L/n)."""
    pixels, windows = torch.arange(length, device=y.device), torch.arange(count, device=y.device)[:, None]
    inside = (pixels >= windows * length // count) & (pixels * count < (windows + 1) * length)
    weights = inside.to(y.dtype)
    return weights / weights.sum(1, keepdim=True)


class _FilterBySample(torch.autograd.Function):
    """See filter_by_sample. It has its own backward because autograd would keep a padded copy of the whole guide."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(y, filters)
        phases = _phases(at_least_float32(y))
        weights = at_least_float32(filters)[..., None, None, None]
        taps = _taps(y)
        output = phases[taps[0]].unsqueeze(1) * weights[:, :, 0]
        for tap, window in enumerate(taps[1:], start=1):
            output.addcmul_(phases[window].unsqueeze(1), weights[:, :, tap])
        return output.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        y, filters = ctx.saved_tensors
        grad_output = at_least_float32(grad_output).contiguous()
        phases = _phases(at_least_float32(y))
        weights = at_least_float32(filters)[..., None, None, None]
        grad_phases = torch.zeros_like(phases)
        grad_filters = []
        for tap, window in enumerate(_taps(y)):
            grad_phases[window] += (grad_output * weights[:, :, tap]).sum(1)
            grad_filters.append((grad_output * phases[window].unsqueeze(1)).sum((2, 3, 4)))
        grad_y = shuffle(grad_phases, 2)[:, :, 2:-2, 2:-2]
        return grad_y.to(y.dtype), torch.stack(grad_filters, dim=2).to(filters.dtype)


def filter_by_sample(y: Tensor, filters: Tensor) -> Tensor:
    """Convolve every channel of a sample with each of that sample's own 6 x 6 filters; stride 2, zero padding 2.

    y [B, C, 2H, 2W], filters [B, F, 6, 6] -> [B, F, C, H, W], in the dtype of y. A grouped convolution would need one
    group per sample, and exported graphs would then have a fixed batch size.
    """
    return _FilterBySample.apply(y, filters.flatten(2))


def _phases(y: Tensor) -> Tensor:
    """Zero-pad, then separate even and odd rows and columns. [B, C, 2H, 2W] -> [B, C, 4, H+2, W+2]."""
    return unshuffle(F.pad(y, (2, 2, 2, 2)), 2)


def _taps(y: Tensor) -> list[tuple[Any, ...]]:
    """For each filter tap, row by row: the index into the phases of the pixels that it multiplies, [B, C, H, W]."""
    H, W = y.shape[2] // 2, y.shape[3] // 2
    return [
        (slice(None), slice(None), 2 * (dy % 2) + dx % 2, slice(dy // 2, dy // 2 + H), slice(dx // 2, dx // 2 + W))
        for dy in range(ENCODING_KERNEL)
        for dx in range(ENCODING_KERNEL)
    ]


@dataclass(frozen=True)
class A2UConfig(UpsamplerConfig):
    """A2U has no options."""

    name: Literal["a2u"] = "a2u"

    def construct(self, channels: int, guide_channels: int, scale: int) -> A2U:
        """See UpsamplerConfig. guide_channels may differ from channels."""
        return A2U(channels, guide_channels, scale)
