"""DySample: Learning to Upsample by Learning to Sample (ICCV 2023).

All its variants, and the naive sampler from which section 3.1 of the paper starts, are switches of one module. Unlike
the published module it computes positions in float32 whatever the dtype of the features: from column 128 on, bfloat16
cannot tell neighbouring pixels apart, let alone offsets of a quarter pixel.

Sampling has two paths to one result: `plain_sample` here, and on CUDA `fused_sample` in sampling_triton.py.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Upsampler,
    UpsamplerConfig,
    at_least_float32,
    default_groups,
    require_choice,
    require_divisor,
    require_positive,
    require_whole,
)
from upsamplers.subpixels import shuffle


class DySample(Upsampler):
    """Sample x bilinearly at learned positions. x [B, C, H, W] -> [B, C, sH, sW].

    The first five arguments and the state dict are those of the published module.

    style: "lp" predicts offsets as channels at low resolution, "pl" shuffles x first and predicts at high resolution.
    groups: contiguous channel groups with own positions; by default 4, or the largest smaller number that divides C.
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
        self.style = style
        self.groups = groups
        self.start = start
        self.factor = 2 * scope if dyscope else scope

        features, outputs = in_channels, 2 * groups * scale**2
        if style == "pl":
            features, outputs = in_channels // scale**2, 2 * groups
        self.offset = nn.Conv2d(features, outputs, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.scope = nn.Conv2d(features, outputs, 1, bias=scope_bias) if dyscope else None
        if self.scope is not None:
            for parameter in self.scope.parameters():
                nn.init.zeros_(parameter)
        # Part of published state dicts. Not read: positions need float32, and this follows the dtype of the module.
        self.register_buffer("init_pos", _published_init_pos(scale, groups, start))

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        offset, scope = self._predict(x)
        sample = self.sampler(x, offset, scope)
        return sample(x, offset, scope, self.style, self.scale, self.groups, self.start, self.factor)

    def sampler(self, x: Tensor, offset: Tensor, scope: Tensor | None) -> Callable[..., Tensor]:
        """The function that samples: `plain_sample`, or on CUDA, if it covers the tensors, `fused_sample`.

        What is traced (torch.compile, torch.export, ONNX) or transformed (torch.func) takes the plain path everywhere.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not x.is_cuda:
            return plain_sample
        if torch._C._are_functorch_transforms_active():
            return plain_sample
        fused = _sampling_triton()
        if fused is None or not fused.covers(x, offset, scope, self.groups):
            return plain_sample
        if torch.cuda.get_device_capability(x.device) < (8, 0):  # no bfloat16 in Triton
            return plain_sample
        sample: Callable[..., Tensor] = fused.fused_sample
        return sample

    def sampling_points(self, x: Tensor) -> Tensor:
        """Where each output pixel reads x. x [B, C, H, W] -> [B, g, sH, sW, 2], float32, (column, row).

        In low-res pixels with pixel centres at +1/2; reading clamps to the outermost centres.
        """
        offsets = self.offsets(x)
        return _start(offsets, self.start, self.scale) + offsets

    def offsets(self, x: Tensor) -> Tensor:
        """How far each of the `sampling_points` lies from its start, in the same form and units."""
        return self.factor * _arranged(*self._predict(x), self.style, self.scale, self.groups)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the convolutions give: raw offsets, and the logits of the scope if it is dynamic."""
        s = self.scale
        if self.style == "pl":
            B, C, H, W = x.shape
            x = shuffle(x.reshape(B, C // s**2, s**2, H, W), s)
        return self.offset(x), None if self.scope is None else self.scope(x)

    def macs(self, height: int, width: int) -> int:
        """The convolutions, and 11 for each number that grid_sample interpolates."""
        pixels = height * width
        convs = self.weight_count() * pixels * (self.scale**2 if self.style == "pl" else 1)
        return convs + 11 * self.channels * self.scale**2 * pixels


def plain_sample(
    x: Tensor, offset: Tensor, scope: Tensor | None, style: str, scale: int, groups: int, start: str, factor: float
) -> Tensor:
    """Sample x bilinearly at start + factor · offset [· sigmoid(scope)]. x [B, C, H, W] -> [B, C, sH, sW].

    offset, and scope if there is one: for "lp" [B, 2gs², H, W], whose channel index runs over axis (column, row),
    group, sub-row and sub-column; for "pl" [B, 2g, sH, sW]. All may be of any floating dtypes; the result has that of
    x. Positions are computed in float32 at least. If any is no number, the whole result is NaN.
    """
    B, C, H, W = x.shape
    g, s = groups, scale
    offset = _arranged(offset, scope, style, s, g)
    # grid_sample takes positions in -1..1 from edge to edge. All its inputs are float32, which autocast leaves
    # alone; on the CPU its half-precision kernel indexes with 16 bits and must never be called.
    unit = torch.cat([offset.new_full((1,), 2 / W), offset.new_full((1,), 2 / H)])
    grid = torch.addcmul(_start(offset, start, s) * unit - 1, offset, factor * unit)
    # At positions that are no numbers the CPU kernel reads and writes foreign memory. Give it others, and let the
    # features carry the NaN on, so that the loss shows it.
    poison = (grid.detach() * 0).sum()
    features = (x.to(offset.dtype) + poison).reshape(B * g, C // g, H, W)
    grid = grid.nan_to_num().reshape(B * g, s * H, s * W, 2)
    output = F.grid_sample(features, grid, "bilinear", "border", align_corners=False)
    return output.reshape(B, C, s * H, s * W).to(x.dtype)


@functools.cache
def _sampling_triton() -> ModuleType | None:
    """The fused kernels; None where Triton is missing. Imported when first needed: without CUDA it never is."""
    try:
        from upsamplers import sampling_triton
    except ImportError:
        return None
    return sampling_triton


def _arranged(offset: Tensor, scope: Tensor | None, style: str, scale: int, groups: int) -> Tensor:
    """Offsets before the constant factor, [B, g, sH, sW, 2] in float32 at least, (column, row)."""
    B, _, h, w = offset.shape
    g, s = groups, scale
    offset = at_least_float32(offset)
    if scope is not None:
        offset = offset * torch.sigmoid(at_least_float32(scope))
    if style == "pl":
        return offset.reshape(B, 2, g, h, w).permute(0, 2, 3, 4, 1)
    offset = offset.reshape(B, 2, g, s, s, h, w).permute(0, 2, 5, 3, 6, 4, 1)
    return offset.flatten(2).reshape(B, g, s * h, s * w, 2)  # in two steps for the reason given in `shuffle`


def _start(offset: Tensor, start: str, scale: int) -> Tensor:
    """Positions that zero offsets [..., sH, sW, 2] read, [sH, sW, 2] in low-res pixels, in the dtype of the offset."""
    rows, columns = (torch.arange(length, dtype=offset.dtype, device=offset.device) for length in offset.shape[-3:-1])
    if start == "bilinear":
        columns, rows = (columns + 0.5) / scale, (rows + 0.5) / scale
    else:
        columns, rows = (columns / scale).floor() + 0.5, (rows / scale).floor() + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def _published_init_pos(scale: int, groups: int, start: str) -> Tensor:
    """Start positions relative to the pixel centre, [1, 2gs², 1, 1], in the channel order of lp offsets."""
    steps = (torch.arange(scale) - (scale - 1) / 2) / scale
    if start == "nearest":
        steps = torch.zeros(scale)
    columns, rows = torch.meshgrid(steps, steps, indexing="xy")
    return torch.stack([columns, rows]).unsqueeze(1).expand(2, groups, scale, scale).reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class DySampleConfig(UpsamplerConfig):
    """The options of DySample. groups: by default 4 for lp and 8 for pl, as in the paper."""

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
        """The guide's channels play no part."""
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
