"""Transposed convolution, with kernel 3 and stride 2 as in the DySample paper, section 4."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from upsamplers.base import Upsampler, UpsamplerConfig, require_scale_two


class Deconv(Upsampler):
    """Upsample by a transposed 3 x 3 convolution. x [B, C, H, W] -> [B, C, 2H, 2W].

    Raises ValueError if the scale is not 2.
    """

    def __init__(self, channels: int, scale: int = 2) -> None:
        require_scale_two("deconv", scale)
        super().__init__(channels, scale=scale)
        self.deconv = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, 2H, 2W]."""
        return self.deconv(x)

    def macs(self, height: int, width: int) -> int:
        """9C² per output pixel, as in Table 4. The actual cost is 9C² per input pixel."""
        return 9 * self.channels**2 * self.scale**2 * height * width


@dataclass(frozen=True)
class DeconvConfig(UpsamplerConfig):
    """Deconv has no options."""

    name: Literal["deconv"] = "deconv"

    def construct(self, channels: int, guide_channels: int, scale: int) -> Deconv:
        """See UpsamplerConfig. guide_channels is ignored."""
        return Deconv(channels, scale)
