"""Feature pyramids with an upsampler at every top-down step. Lin et al., "Feature Pyramid Networks", CVPR 2017.

There are two forms. The plain one: three upsamplers lead from P5 down to P2, and P6 is P5 subsampled. It is the
baseline of DySample's Table 8. The one with P6 in the top-down path ("FPN_CARAFE" of mmdetection; Wang et al., ICCV
2019): P6 starts as a strided convolution of C5, and four upsamplers lead from P6 down to P2. It is the baseline of
DySample's Table 6.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers import UpsamplerConfig

NeckName = Literal["fpn", "fpn_p6"]


class FPN(nn.Module):
    """Levels C2..C5 -> P2..P6, all with `channels` channels, at strides 4 to 64.

    in_channels: of C2..C5. top_down_p6: the form with P6 in the top-down path; image sides must be multiples of 64.
    upsampler_init: "own" keeps the upsamplers' own initial weights. "xavier" initialises their convolutions like those
    of the pyramid, as the published detection code did; this overwrites, for example, DySample's small offset weights.
    Upsampler i goes from level i + 1 to level i. Its guide is the lateral of level i, before anything is added to it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        upsampler: UpsamplerConfig,
        top_down_p6: bool,
        upsampler_init: Literal["own", "xavier"] = "own",
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        if top_down_p6:
            self.laterals.append(nn.Conv2d(in_channels[-1], channels, 3, stride=2, padding=1))
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.laterals)
        for module in [*self.laterals, *self.outputs]:
            _initialise(module)
        self.upsamplers = nn.ModuleList(upsampler.build(channels, channels) for _ in self.laterals[1:])
        if upsampler_init == "xavier":
            self.upsamplers.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_i, H_i, W_i], fine to coarse -> [B, C, H_i, W_i] and P6, fine to coarse."""
        sources = [*features, features[-1]]  # C5 again for the lateral of P6, if there is one
        levels: list[Tensor] = [lateral(source) for lateral, source in zip(self.laterals, sources, strict=False)]
        for index in reversed(range(len(self.upsamplers))):
            up = self.upsamplers[index](levels[index + 1], guide=levels[index])
            levels[index] = levels[index] + up
        pyramid = [output(level) for output, level in zip(self.outputs, levels, strict=True)]
        if len(pyramid) == len(features):
            pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for convolutions."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
