"""Sub-pixel convolution (ESPCN, CVPR 2016), with kernel 3 as in the DySample paper, section 4."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from upsamplers.base import Upsampler, UpsamplerConfig, shuffle


class PixelShuffle(Upsampler):
    """Compute the s² sub-pixels of each pixel as channels, then rearrange them. [B, C, H, W] -> [B, C, sH, sW]."""

    def __init__(self, channels: int, scale: int = 2) -> None:
        super().__init__(channels, scale=scale)
        self.upsample_conv = nn.Conv2d(channels, scale**2 * channels, 3, padding=1)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        B, C, H, W = x.shape
        return shuffle(self.upsample_conv(x).reshape(B, C, self.scale**2, H, W), self.scale)

    def macs(self, height: int, width: int) -> int:
        """One 3 x 3 convolution from C to s²C channels."""
        return 9 * self.scale**2 * self.channels**2 * height * width


@dataclass(frozen=True)
class PixelShuffleConfig(UpsamplerConfig):
    """PixelShuffle has no options."""

    name: Literal["pixelshuffle"] = "pixelshuffle"

    def construct(self, channels: int, guide_channels: int, scale: int) -> PixelShuffle:
        """See UpsamplerConfig. guide_channels is ignored."""
        return PixelShuffle(channels, scale)
