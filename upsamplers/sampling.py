"""Bilinear sampling at learned positions: what DySample is made of, apart from the layers that predict the offsets.

There are two paths to one result: `plain_sample` here, and on CUDA `fused_sample` in sampling_triton.py. Positions are
float32 whatever the dtype of the features: from column 128 on, bfloat16 cannot tell neighbouring pixels apart, let
alone offsets of a quarter pixel.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers.base import at_least_float32


@dataclass(frozen=True)
class PointSampling:
    """How raw offsets become the points where x is read.

    style: "lp": offsets are channels at low resolution, [B, 2gs², H, W], whose index runs over axis (column, row),
    group, sub-row and sub-column. "pl": they are maps at high resolution, [B, 2g, sH, sW].
    scale: s. groups: g contiguous groups of channels, each with its own points.
    start: "bilinear": zero offsets give bilinear interpolation. "nearest": they give nearest interpolation.
    factor: low-resolution pixels per unit of offset.
    """

    style: str
    scale: int
    groups: int
    start: str
    factor: float

    def offsets(self, offset: Tensor, scope: Tensor | None) -> Tensor:
        """How far each point lies from its start, [B, g, sH, sW, 2] in low-res pixels (column, row), float32 or more.

        offset: raw. scope: logits of a factor between 0 and 1 for each of them, in the same form, or None.
        """
        return self.factor * _arranged(offset, scope, self)

    def points(self, offset: Tensor, scope: Tensor | None) -> Tensor:
        """Where each output pixel reads x, in the same form and units, with pixel centres at +1/2.

        A point beyond the outermost centres reads what the nearest of them reads.
        """
        offsets = self.offsets(offset, scope)
        return _start(offsets, self) + offsets


Sampler = Callable[[Tensor, Tensor, Tensor | None, PointSampling], Tensor]


def choose_sampler(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int) -> Sampler:
    """`fused_sample` on CUDA, if its kernels take these tensors, else `plain_sample`.

    What is traced (torch.compile, torch.export, ONNX) or transformed (torch.func) takes the plain path everywhere.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not x.is_cuda:
        return plain_sample
    if torch._C._are_functorch_transforms_active():
        return plain_sample
    fused = _sampling_triton()
    if fused is None or not fused.covers(x, offset, scope, groups):
        return plain_sample
    if torch.cuda.get_device_capability(x.device) < (8, 0):  # no bfloat16 in Triton
        return plain_sample
    sample: Sampler = fused.fused_sample
    return sample


def plain_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Sample x bilinearly at start + factor · offset [· sigmoid(scope)]. x [B, C, H, W] -> [B, C, sH, sW].

    offset, and scope if there is one: see `PointSampling`. All may be of any floating dtypes; the result has that of x.
    Positions are computed in float32 at least. If any position is NaN or infinite, the whole result is NaN.
    """
    B, C, H, W = x.shape
    g, s = sampling.groups, sampling.scale
    offset = _arranged(offset, scope, sampling)
    # grid_sample takes positions in -1..1 from edge to edge. All its inputs are float32, which autocast leaves
    # alone; on the CPU its half-precision kernel indexes with 16 bits and must never be called.
    unit = torch.cat([offset.new_full((1,), 2 / W), offset.new_full((1,), 2 / H)])
    grid = torch.addcmul(_start(offset, sampling) * unit - 1, offset, sampling.factor * unit)
    # At NaN positions the CPU kernel reads and writes memory that is not its own. Replace them, and let the
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


def _arranged(offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Offsets before the constant factor, [B, g, sH, sW, 2] in float32 at least, (column, row)."""
    B, _, h, w = offset.shape
    g, s = sampling.groups, sampling.scale
    offset = at_least_float32(offset)
    if scope is not None:
        offset = offset * torch.sigmoid(at_least_float32(scope))
    if sampling.style == "pl":
        return offset.reshape(B, 2, g, h, w).permute(0, 2, 3, 4, 1)
    offset = offset.reshape(B, 2, g, s, s, h, w).permute(0, 2, 5, 3, 6, 4, 1)
    return offset.flatten(2).reshape(B, g, s * h, s * w, 2)  # in two steps for the reason given in `shuffle`


def _start(offset: Tensor, sampling: PointSampling) -> Tensor:
    """Positions that zero offsets [..., sH, sW, 2] read, [sH, sW, 2] in low-res pixels, in the dtype of the offset."""
    rows, columns = (torch.arange(length, dtype=offset.dtype, device=offset.device) for length in offset.shape[-3:-1])
    if sampling.start == "bilinear":
        columns, rows = (columns + 0.5) / sampling.scale, (rows + 0.5) / sampling.scale
    else:
        columns, rows = (columns / sampling.scale).floor() + 0.5, (rows / sampling.scale).floor() + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
