"""Interpolation without parameters: the upsamplers that the models use in their original form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers.base import Upsampler, UpsamplerConfig


class Nearest(Upsampler):
    """Repeat every pixel s x s times. x [B, C, H, W] -> [B, C, sH, sW]."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="nearest")

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. The window is one pixel with weight 1."""
        return x.new_ones(x.shape[0], 1, 1, self.scale**2, *x.shape[2:])

    def macs(self, height: int, width: int) -> int:
        """Free, by the paper's rule of counting."""
        return 0


class Bilinear(Upsampler):
    """Interpolate between pixel centres. x [B, C, H, W] -> [B, C, sH, sW].

    align_corners: as in F.interpolate. True aligns the centres of the corner pixels, as the original DepthFormer does;
    False aligns the corners of the maps, as in the DySample paper (section 4). To another size than sH x sW: with False
    the result is cropped, like that of all upsamplers; with True x is interpolated to that size, since a crop would
    no longer align the corners.
    """

    def __init__(self, channels: int, scale: int = 2, align_corners: bool = False) -> None:
        super().__init__(channels, scale=scale)
        self.align_corners = align_corners

    def forward(self, x: Tensor, guide: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        """See Upsampler and, for sizes other than sH x sW, this class."""
        if self.align_corners:
            self._check_input("x", x, self.channels)
            target = self._target_size(x, guide, size)
            if target is not None:
                return F.interpolate(x, target, mode="bilinear", align_corners=True)
        return super().forward(x, guide, size)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=self.align_corners)

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. The windows are 3 x 3, the weights float32, and 0 outside the map."""
        rows, columns = (bilinear_weights(length, self.scale, self.align_corners, x.device) for length in x.shape[2:])
        kernels = torch.einsum("yih,xjw->yxijhw", rows, columns).flatten(2, 3).flatten(0, 1)
        return kernels.expand(x.shape[0], 1, -1, -1, -1, -1)

    def macs(self, height: int, width: int) -> int:
        """Free, by the paper's rule of counting."""
        return 0


def bilinear_weights(length: int, scale: int, align_corners: bool, device: torch.device) -> Tensor:
    """Along one axis, the weights of each pixel and its two neighbours for each of its sub-pixels, [3, s, length]."""
    outputs = torch.arange(scale * length, dtype=torch.float32, device=device)
    if align_corners:
        centres = outputs * ((length - 1) / max(scale * length - 1, 1))
    else:
        centres = ((outputs + 0.5) / scale - 0.5).clamp(0, length - 1)
    centres = centres.reshape(length, scale).T  # each at most 1 away from its own low-res pixel
    taps = torch.arange(length, device=device) + torch.tensor([-1, 0, 1], device=device)[:, None, None]
    return (1 - (centres - taps).abs()).clamp(min=0)


@dataclass(frozen=True)
class NearestConfig(UpsamplerConfig):
    """Nearest has no options."""

    name: Literal["nearest"] = "nearest"

    def construct(self, channels: int, guide_channels: int, scale: int) -> Nearest:
        """See UpsamplerConfig. guide_channels is ignored."""
        return Nearest(channels, scale=scale)


@dataclass(frozen=True)
class BilinearConfig(UpsamplerConfig):
    """The option of bilinear. align_corners: False in the DySample paper, True in the original DepthFormer."""

    name: Literal["bilinear"] = "bilinear"
    align_corners: bool = False

    def construct(self, channels: int, guide_channels: int, scale: int) -> Bilinear:
        """See UpsamplerConfig. guide_channels is ignored."""
        return Bilinear(channels, scale, self.align_corners)
