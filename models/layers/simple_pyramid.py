"""The simple feature pyramid: four levels from one map. Li et al., "Exploring Plain Vision Transformer Backbones for
Object Detection" (ViTDet), ECCV 2022, section 3.

Each level is made from the map alone, without lateral or top-down paths: by x2 upsamplers, or by max pooling. Any
upsampler will do; ViTDet has transposed convolutions. As there, each step halves the channels.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers import UpsamplerConfig
from upsamplers.sapa import ChannelNorm

STRIDES = (4, 8, 16, 32)


class SimplePyramid(nn.Module):
    """A map [B, C, h, w] -> four levels with `channels` channels at strides 4, 8, 16, 32.

    in_channels, stride: of the map; the stride is a power of two. image_channels: of the images that guide upsamplers
    with a guide: no other features are that fine.
    """

    def __init__(
        self, in_channels: int, stride: int, channels: int, upsampler: UpsamplerConfig, image_channels: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.stages, self.outputs = nn.ModuleList(), nn.ModuleList()
        for target in STRIDES:
            doublings = max(stride.bit_length() - target.bit_length(), 0)
            widths = [in_channels >> count for count in range(doublings + 1)]
            self.stages.append(
                nn.ModuleList(
                    _UpsamplingStage(wide, narrow, upsampler, image_channels, is_last=index == doublings - 1)
                    for index, (wide, narrow) in enumerate(itertools.pairwise(widths))
                )
            )
            self.outputs.append(
                nn.Sequential(
                    nn.Conv2d(widths[-1], channels, 1, bias=False),
                    ChannelNorm(channels),
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    ChannelNorm(channels),
                )
            )

    def forward(self, x: Tensor, images: Tensor) -> list[Tensor]:
        """Map x [B, C, H / s, W / s], images [B, G, H, W] -> four levels [B, D, H / t, W / t], sizes rounded up."""
        levels = []
        for target, stages, output in zip(STRIDES, self.stages, self.outputs, strict=True):
            level, stride = x, self.stride
            for stage in stages:  # type: ignore[attr-defined]
                stride //= 2
                level = stage(level, shrink(images, stride))
            if target > stride:
                level = F.max_pool2d(level, target // stride, ceil_mode=True)
            levels.append(output(level))
        return levels


class _UpsamplingStage(nn.Module):
    """[B, C, h, w] -> [B, D, 2h, 2w]: halve the channels and upsample. All but the last also have norm and GELU."""

    def __init__(
        self, in_channels: int, channels: int, upsampler: UpsamplerConfig, guide_channels: int, is_last: bool
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        self.upsampler = upsampler.build(channels, guide_channels)
        self.norm = nn.Identity() if is_last else nn.Sequential(ChannelNorm(channels), nn.GELU())

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        result: Tensor = self.norm(self.upsampler(self.reduce(x), guide=guide))
        return result


def shrink(images: Tensor, stride: int) -> Tensor:
    """Average squares of `stride` x `stride` pixels. [B, C, H, W] -> [B, C, H / stride, W / stride], rounded up."""
    return images if stride == 1 else F.avg_pool2d(images, stride, ceil_mode=True)
