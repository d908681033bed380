"""The pixel decoder of MaskFormer: a pyramid with three upsampling stages. Cheng et al., NeurIPS 2021, section 3.3."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from upsamplers import UpsamplerConfig

GROUPS = 32  # of the group norms


class PixelDecoder(nn.Module):
    """Backbone levels -> pixel features at the size of the finest level, from which masks are computed.

    in_channels: of the levels, fine to coarse. channels: inside and of the result; a multiple of 32. Each stage
    upsamples the output of the coarser level, guided by the lateral of the finer level, adds that lateral, and applies
    a 3 x 3 convolution. `models.layers.fpn` differs: it upsamples the sums, before any 3 x 3 convolution.
    Raises ValueError if 32 does not divide the channels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, upsampler: UpsamplerConfig) -> None:
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"channels {channels} do not divide into {GROUPS} groups")
        *finer, coarsest = in_channels
        self.enter = _conv_norm(coarsest, channels, 3, activation=True)
        self.laterals = nn.ModuleList(_conv_norm(width, channels, 1, activation=False) for width in finer)
        self.upsamplers = nn.ModuleList(upsampler.build(channels, channels) for _ in finer)
        self.outputs = nn.ModuleList(_conv_norm(channels, channels, 3, activation=True) for _ in finer)
        self.mask_features = nn.Conv2d(channels, channels, 3, padding=1)
        _initialise(self.mask_features)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, C_i, H_i, W_i], fine to coarse, each half the size of the previous one -> [B, C, H_0, W_0]."""
        *finer, coarsest = levels
        x = self.enter(coarsest)
        stages = zip(finer, self.laterals, self.upsamplers, self.outputs, strict=True)
        for level, lateral, upsampler, output in reversed(list(stages)):
            fine = lateral(level)
            x = output(fine + upsampler(x, guide=fine))
        features: Tensor = self.mask_features(x)
        return features


def _conv_norm(in_channels: int, channels: int, kernel: int, activation: bool) -> nn.Sequential:
    """Convolution, group norm and, with `activation`, ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    _initialise(conv)
    last: nn.Module = nn.ReLU(inplace=True) if activation else nn.Identity()
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.GroupNorm(GROUPS, channels), activation=last))


def _initialise(conv: nn.Conv2d) -> None:
    """Initialise as the original: Kaiming-uniform with slope 1, zero bias."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
