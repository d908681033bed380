"""Feature pyramids with an upsampler at every step down. Lin et al., "Feature Pyramid Networks", CVPR 2017.

Two forms. Plain: P6 is P5 subsampled, and three upsamplers lead from P5 to P2. With P6 on the way down ("FPN_CARAFE" of
mmdetection; Wang et al., ICCV 2019): a strided convolution of C5 starts the way, four upsamplers lead from P6 to P2.
The second is the baseline of DySample's Table 6, the first that of its Table 8.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers import UpsamplerConfig

NeckName = Literal["fpn", "fpn_p6"]


class FPN(nn.Module):
    """Levels C2..C5 -> P2..P6, all with `channels` channels, at strides 4 to 64.

    in_channels: of C2..C5. top_down_p6: the second form; the image's sides must then divide by 64.
    upsampler_init: "own" leaves the upsamplers as they start by themselves; "xavier" fills their convolutions like the
    pyramid's, as the published detection code did, overwriting for example DySample's small offsets.
    Upsampler i leads from level i + 1 to level i, guided by the finer level's lateral before anything is added to it.
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
            _xavier(module)
        self.upsamplers = nn.ModuleList(upsampler.build(channels, channels) for _ in self.laterals[1:])
        if upsampler_init == "xavier":
            self.upsamplers.apply(_xavier)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_i, H_i, W_i], fine to coarse -> [B, C, H_i, W_i] and P6, fine to coarse."""
        sources = [*features, features[-1]]  # the last for P6, where it has a lateral
        levels: list[Tensor] = [lateral(source) for lateral, source in zip(self.laterals, sources, strict=False)]
        for index in reversed(range(len(self.upsamplers))):
            up = self.upsamplers[index](levels[index + 1], guide=levels[index])
            levels[index] = levels[index] + up
        pyramid = [output(level) for output, level in zip(self.outputs, levels, strict=True)]
        if len(pyramid) == len(features):
            pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
