"""CARAFE: Content-Aware ReAssembly of FEatures (ICCV 2019)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from upsamplers.base import Upsampler, UpsamplerConfig, at_least_float32, require_divisor, require_odd, require_whole
from upsamplers.reassemble import reassemble


class Carafe(Upsampler):
    """Reassemble x with kernels predicted from x (paper section 3). x [B, C, H, W] -> [B, C, sH, sW].

    Raises ValueError if a kernel size is even or the groups do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        compressed_channels: int = 64,
        kernel: int = 5,
        encoder_kernel: int = 3,
        groups: int = 1,
    ) -> None:
        super().__init__(channels, scale=scale)
        require_odd(kernel=kernel, encoder_kernel=encoder_kernel)
        require_divisor(channels, groups=groups)
        self.groups = groups
        self.kernel = kernel
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels, groups * kernel**2 * scale**2, encoder_kernel, padding=encoder_kernel // 2
        )
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.zeros_(self.channel_compressor.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.content_encoder.weight, std=0.001)  # initially almost a box filter
        nn.init.zeros_(self.content_encoder.bias)  # type: ignore[arg-type]

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        return reassemble(x, self.kernels(x, guide))

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler."""
        B, _, H, W = x.shape
        logits = self.content_encoder(self.channel_compressor(x))
        logits = at_least_float32(logits).reshape(B, self.groups, self.kernel**2, self.scale**2, H, W)
        return torch.softmax(logits, dim=2)

    def macs(self, height: int, width: int) -> int:
        """Two convolutions at low resolution, and K² per output element."""
        reassembly = self.kernel**2 * self.channels * self.scale**2
        return (self.weight_count() + reassembly) * height * width


@dataclass(frozen=True)
class CarafeConfig(UpsamplerConfig):
    """The options of CARAFE. The defaults are those of all models in the DySample paper."""

    name: Literal["carafe"] = "carafe"
    compressed_channels: int = 64
    kernel: int = 5
    encoder_kernel: int = 3
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(compressed_channels=self.compressed_channels, groups=self.groups)
        require_odd(kernel=self.kernel, encoder_kernel=self.encoder_kernel)

    def construct(self, channels: int, guide_channels: int, scale: int) -> Carafe:
        """See UpsamplerConfig. guide_channels is ignored."""
        return Carafe(channels, scale, self.compressed_channels, self.kernel, self.encoder_kernel, self.groups)
