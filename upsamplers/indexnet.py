"""IndexNet (Indices Matter, ICCV 2019): nearest upsampling, modulated by an index map learned from the guide.

There are two index networks. `network: hin` is the holistic one, non-linear with context; the DySample paper names it
and counts its parameters. `network: m2o` is the depthwise many-to-one one, linear without context; the published
training log behind the paper's accuracy shows this one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from upsamplers.base import Upsampler, UpsamplerConfig, require_choice, require_scale_two, shuffle


class IndexNet(Upsampler):
    """Multiply nearest-upsampled x by an index map in (0, 1). x [B, C, H, W], guide [B, G, 2H, 2W] -> [B, C, 2H, 2W].

    double_sigmoid: apply the sigmoid twice, as one wrapper of the operator does. The original applies it once.
    Raises ValueError if the scale is not 2 or the network is unknown.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        network: str = "hin",
        double_sigmoid: bool = False,
    ) -> None:
        require_scale_two("indexnet", scale)
        super().__init__(channels, guide_channels, scale)
        require_choice(("hin", "m2o"), network=network)
        self.double_sigmoid = double_sigmoid
        G = self.guide_channels
        self.indexnet: nn.Module
        if network == "hin":  # one index map for all channels
            self.indexnet = nn.Sequential(
                nn.Conv2d(G, 2 * G, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(2 * G),
                nn.ReLU6(),
                nn.Conv2d(2 * G, 4, 1, bias=False),
            )
        else:
            self.indexnet = ManyToOne(G, channels)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, 2H, 2W] to [B, C, 2H, 2W]."""
        return shuffle(x.unsqueeze(2) * self.kernels(x, guide)[:, :, 0], 2)

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. The index map as windows of one pixel: one group for hin, one group per channel for m2o."""
        B, _, H, W = x.shape
        index = torch.sigmoid(self.indexnet(guide))
        if self.double_sigmoid:
            index = torch.sigmoid(index)
        return index.reshape(B, index.shape[1] // 4, 1, 4, H, W)  # 4 sub-pixels for each index map

    def macs(self, height: int, width: int) -> int:
        """The convolutions, whose outputs are all at low resolution, and one product per output element."""
        return (self.weight_count() + 4 * self.channels) * height * width


class ManyToOne(nn.Module):
    """One index map per channel, from one 2 x 2 convolution per sub-pixel. [B, G, 2H, 2W] -> [B, 4C, H, W]."""

    def __init__(self, guide_channels: int, channels: int) -> None:
        super().__init__()
        self.subpixels = nn.ModuleList(nn.Conv2d(guide_channels, channels, 2, stride=2, bias=False) for _ in range(4))

    def forward(self, guide: Tensor) -> Tensor:
        """See the class. The sub-pixel is the fastest-varying part of the channel index, as in pixel shuffle."""
        return torch.stack([conv(guide) for conv in self.subpixels], dim=2).flatten(1, 2)


@dataclass(frozen=True)
class IndexNetConfig(UpsamplerConfig):
    """The options of IndexNet."""

    name: Literal["indexnet"] = "indexnet"
    network: Literal["hin", "m2o"] = "hin"
    double_sigmoid: bool = False

    def construct(self, channels: int, guide_channels: int, scale: int) -> IndexNet:
        """See UpsamplerConfig. guide_channels may differ from channels."""
        return IndexNet(channels, guide_channels, scale, self.network, self.double_sigmoid)
