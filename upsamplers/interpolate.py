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
    """Interpolate between pixel centres, align_corners=False (section 4). x [B, C, H, W] -> [B, C, sH, sW]."""

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)

    def macs(self, height: int, width: int) -> int:
        """Free by the paper's rule."""
        return 0


@dataclass(frozen=True)
class NearestConfig(UpsamplerConfig):
    """Nearest has no options."""

    name: Literal["nearest"] = "nearest"

    def build(self, channels: int, guide_channels: int, scale: int = 2) -> Nearest:
        """The guide's channels play no part."""
        return Nearest(channels, scale=scale)


@dataclass(frozen=True)
class BilinearConfig(UpsamplerConfig):
    """Bilinear has no options."""

    name: Literal["bilinear"] = "bilinear"

    def build(self, channels: int, guide_channels: int, scale: int = 2) -> Bilinear:
        """The guide's channels play no part."""
        return Bilinear(channels, scale=scale)
