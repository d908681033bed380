"""Interpolation without parameters: the upsamplers that the hosts come with."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from upsamplers.base import Upsampler, UpsamplerConfig


class Nearest(Upsampler):
    """Repeat every pixel s x s times. x [B, C, H, W] -> [B, C, sH, sW]."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="nearest")

    def macs(self, height: int, width: int) -> int:
        """Free by the paper's rule."""
        return 0


class Bilinear(Upsampler):
    """Interpolate between pixel centres. x [B, C, H, W] -> [B, C, sH, sW].

    align_corners: put the centres of the corner pixels onto each other, as DepthFormer does, instead of the corners of
    the maps (section 4).
    """

    def __init__(self, channels: int, scale: int = 2, align_corners: bool = False) -> None:
        super().__init__(channels, scale=scale)
        self.align_corners = align_corners

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=self.align_corners)

    def macs(self, height: int, width: int) -> int:
        """Free by the paper's rule."""
        return 0


@dataclass(frozen=True)
class NearestConfig(UpsamplerConfig):
    """Nearest has no options."""

    name: Literal["nearest"] = "nearest"

    def construct(self, channels: int, guide_channels: int, scale: int) -> Nearest:
        """The guide's channels play no part."""
        return Nearest(channels, scale=scale)


@dataclass(frozen=True)
class BilinearConfig(UpsamplerConfig):
    """The option of bilinear. align_corners: False in the paper; True is the original DepthFormer's way."""

    name: Literal["bilinear"] = "bilinear"
    align_corners: bool = False

    def construct(self, channels: int, guide_channels: int, scale: int) -> Bilinear:
        """The guide's channels play no part."""
        return Bilinear(channels, scale, self.align_corners)
