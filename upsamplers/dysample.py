"""DySample: Learning to Upsample by Learning to Sample (ICCV 2023).

One module with switches covers all variants, and the naive sampler at the beginning of section 3.1 of the paper. Unlike
the published module it always computes positions in float32, whatever the dtype of the features: see sampling.py.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Points,
    Upsampler,
    UpsamplerConfig,
    default_groups,
    require_choice,
    require_divisor,
    require_positive,
    require_whole,
    shuffle,
)
from upsamplers.sampling import PointSampling, Sampler, choose_sampler


class DySample(Upsampler):
    """Sample x bilinearly at learned positions. x [B, C, H, W] -> [B, C, sH, sW].

    The first five arguments and the state-dict keys are those of the published module.

    style: "lp" predicts offsets as channels at low resolution, "pl" shuffles x first and predicts at high resolution.
    groups: contiguous channel groups, each with its own positions; by default 4, or if 4 does not divide C, the largest
    smaller number that does.
    dyscope: also predict the range of the offsets, 0 to 2·scope instead of a fixed scope ("DySample+").
    start: where positions start. With "bilinear" zero offsets give bilinear interpolation, with "nearest" nearest.
    scope: the static scope factor, in low-res pixels per unit of offset (Table 2).
    scope_bias: with dyscope, a bias in the scope convolution, as in the first release and the authors' forks.
    Raises ValueError for unknown styles and starts, groups that do not divide C, "pl" where s² does not divide C, and
    scope_bias without dyscope.
    """

    def __init__(
        self,
        in_channels: int,
        scale: int = 2,
        style: str = "lp",
        groups: int | None = None,
        dyscope: bool = False,
        *,
        start: str = "bilinear",
        scope: float = 0.25,
        scope_bias: bool = False,
    ) -> None:
        super().__init__(in_channels, scale=scale)
        require_choice(("lp", "pl"), style=style)
        require_choice(("bilinear", "nearest"), start=start)
        require_positive(scope=scope)
        groups = default_groups("dysample", in_channels, preferred=4) if groups is None else groups
        require_divisor(in_channels, groups=groups)
        if scope_bias and not dyscope:
            raise ValueError("scope_bias is an option of dyscope, which is off")
        if style == "pl" and in_channels % scale**2:
            raise ValueError(f"style 'pl' at scale {scale} needs channels divisible by {scale**2}, got {in_channels}")
        self.style, self.groups = style, groups  # as in the published module
        self.sampling = PointSampling(style, scale, groups, start, factor=2 * scope if dyscope else scope)

        features, outputs = in_channels, 2 * groups * scale**2
        if style == "pl":
            features, outputs = in_channels // scale**2, 2 * groups
        self.offset = Pointwise(features, outputs, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.scope = Pointwise(features, outputs, 1, bias=scope_bias) if dyscope else None
        if self.scope is not None:
            for parameter in self.scope.parameters():
                nn.init.zeros_(parameter)
        # Part of published state dicts. Not read: positions need float32, and a buffer has the dtype of the module.
        self.register_buffer("init_pos", _published_init_pos(scale, groups, start))

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        offset, scope = self._predict_offsets(x)
        sample = self.sampler(x, offset, scope)
        return sample(x, offset, scope, self.sampling)

    def sampler(self, x: Tensor, offset: Tensor, scope: Tensor | None) -> Sampler:
        """The function to sample with; see `choose_sampler`."""
        return choose_sampler(x, offset, scope)

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points:
        """See Upsampler. One point without weight."""
        raw = self._predict_offsets(x)
        offsets, positions = (compute(*raw).unsqueeze(2) for compute in (self.sampling.offsets, self.sampling.points))
        return Points(positions - offsets, positions, None, "border")

    def sampling_points(self, x: Tensor) -> Tensor:
        """The positions where each output pixel reads x. x [B, C, H, W] -> [B, g, sH, sW, 2].

        See `PointSampling.points`.
        """
        return self.sampling.points(*self._predict_offsets(x))

    def offsets(self, x: Tensor) -> Tensor:
        """The offset of each of the `sampling_points` from its start position, in the same shape and units."""
        return self.sampling.offsets(*self._predict_offsets(x))

    def _predict_offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The outputs of the convolutions: raw offsets, and with dyscope the logits of the scope, else None."""
        s = self.scale
        if self.style == "pl":
            B, C, H, W = x.shape
            x = shuffle(x.reshape(B, C // s**2, s**2, H, W), s)
        return self.offset(x), None if self.scope is None else self.scope(x)

    def macs(self, height: int, width: int) -> int:
        """The convolutions, and 11 for each element that grid_sample interpolates."""
        pixels = height * width
        convs = self.weight_count() * pixels * (self.scale**2 if self.style == "pl" else 1)
        return convs + 11 * self.channels * self.scale**2 * pixels


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution as one matrix product, which is faster; in an export it is a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, H, W] -> [B, D, H, W], in the memory layout of x."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return super().forward(x)
        weight, rows = self.weight.flatten(1), x.permute(0, 2, 3, 1)
        if rows.is_contiguous():  # channels_last
            return F.linear(rows, weight, self.bias).permute(0, 3, 1, 2)
        weight, pixels = weight.expand(x.shape[0], -1, -1), x.flatten(2)
        product = weight @ pixels if self.bias is None else torch.baddbmm(self.bias[:, None], weight, pixels)
        return product.unflatten(2, x.shape[2:])


def _published_init_pos(scale: int, groups: int, start: str) -> Tensor:
    """Start positions relative to the pixel centre, [1, 2gs², 1, 1], in the channel order of lp offsets."""
    steps = (torch.arange(scale) - (scale - 1) / 2) / scale
    if start == "nearest":
        steps = torch.zeros(scale)
    columns, rows = torch.meshgrid(steps, steps, indexing="xy")
    return torch.stack([columns, rows]).unsqueeze(1).expand(2, groups, scale, scale).reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class DySampleConfig(UpsamplerConfig):
    """The options of DySample. groups: by default 4 for lp and 8 for pl, as in the paper; see `default_groups`."""

    name: Literal["dysample"] = "dysample"
    style: Literal["lp", "pl"] = "lp"
    groups: int | None = None
    dyscope: bool = False
    start: Literal["bilinear", "nearest"] = "bilinear"
    scope: float = 0.25
    scope_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(scope=self.scope)
        if self.groups is not None:
            require_whole(groups=self.groups)

    def construct(self, channels: int, guide_channels: int, scale: int) -> DySample:
        """See UpsamplerConfig. guide_channels is ignored."""
        groups = self.groups
        if groups is None:
            groups = default_groups("dysample", channels, preferred=4 if self.style == "lp" else 8)
        return DySample(
            channels,
            scale,
            self.style,
            groups,
            self.dyscope,
            start=self.start,
            scope=self.scope,
            scope_bias=self.scope_bias,
        )
