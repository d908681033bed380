"""The decoder of DepthFormer: four upsampling stages from 1/32 to 1/2 of the image, each followed by two convolutions.

No norms; convolutions have biases.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.precision import without_autocast
from upsamplers import UpsamplerConfig

Activation = Literal["relu", "sigmoid"]

INITIAL_SHARE = 0.25  # of max_depth: the depth that an untrained network predicts, near the mean of indoor scenes
SLOPE = 0.01  # of LeakyReLU


class Decoder(nn.Module):
    """Levels -> depth in metres at the size of the finest level.

    in_channels: of the levels, fine to coarse. Each stage upsamples, guided by the next finer level, concatenates that
    level, and outputs as many channels as that level has. activation: "relu": ReLU(x) + min_depth, without an upper
    bound; "sigmoid": sigmoid(x) * max_depth.

    The published network initially predicts values near zero, where the ReLU may stay dead forever. Here the initial
    prediction is a quarter of max_depth everywhere.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        upsampler: UpsamplerConfig,
        activation: Activation,
        min_depth: float,
        max_depth: float,
    ) -> None:
        super().__init__()
        self.activation, self.min_depth, self.max_depth = activation, min_depth, max_depth
        self.enter = nn.Conv2d(in_channels[-1], in_channels[-1], 1)
        steps = [(in_channels[index + 1], in_channels[index]) for index in reversed(range(len(in_channels) - 1))]
        self.upsamplers = nn.ModuleList(upsampler.build(coarse, fine) for coarse, fine in steps)
        self.fusions = nn.ModuleList(_fusion(coarse + fine, fine) for coarse, fine in steps)
        self.output = nn.Conv2d(in_channels[0], 1, 3, padding=1)
        start = INITIAL_SHARE * max_depth if activation == "relu" else math.log(INITIAL_SHARE / (1 - INITIAL_SHARE))
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.constant_(self.output.bias, start)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, C_i, H_i, W_i], fine to coarse -> depth [B, 1, H_0, W_0], metres, float32."""
        *skips, coarsest = levels
        x = self.enter(coarsest)
        for upsampler, fusion, skip in zip(self.upsamplers, self.fusions, reversed(skips), strict=True):
            x = fusion(torch.cat([upsampler(x, guide=skip), skip], dim=1))
        with without_autocast(x):  # at 5 m bfloat16 resolves only 3 cm
            output = self.output(x.float())
        if self.activation == "sigmoid":
            return output.sigmoid() * self.max_depth
        return output.relu() + self.min_depth


def _fusion(in_channels: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, channels):
        conv = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, SLOPE)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.LeakyReLU(SLOPE, inplace=True)]
    return nn.Sequential(*layers)
