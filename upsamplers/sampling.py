"""Bilinear sampling at learned positions: all of DySample except the layers that predict the offsets.

Three functions give the same result: `plain_sample`, in PyTorch's operators; `compiled_sample`, for CPUs, and
`fused_sample`, for GPUs, by the kernels of operators.py.
Positions are float32 whatever the dtype of the features. In bfloat16, neighbouring pixels could not be told apart from
column 128 on, let alone offsets of a quarter pixel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers import operators
from upsamplers.base import Padding, at_least_float32

FAR = 3.0  # in grid units, where the map is -1..1: every pixel is more than a step away, even of a map of one pixel


@dataclass(frozen=True)
class PointSampling:
    """How to turn raw offsets into the points where x is read.

    style: "lp": raw offsets are channels at low resolution, [B, 2gs², H, W]; the channel index runs over axis (column,
    row), group, sub-row and sub-column. "pl": raw offsets are maps at high resolution, [B, 2g, sH, sW].
    scale: s. groups: g contiguous groups of channels, each with its own points.
    start: "bilinear": zero offsets give bilinear interpolation. "nearest": they give nearest interpolation.
    factor: low-resolution pixels per unit of raw offset.
    """

    style: str
    scale: int
    groups: int
    start: str
    factor: float

    def offsets(self, offset: Tensor, scope: Tensor | None) -> Tensor:
        """The offset of each point from its start, [B, g, sH, sW, 2] in low-res pixels (column, row), float32 or wider.

        offset: raw offsets. scope: None, or for each raw offset the logit of a factor in (0, 1), in the same shape.
        """
        return self.factor * _arrange_offsets(offset, scope, self)

    def points(self, offset: Tensor, scope: Tensor | None) -> Tensor:
        """The position where each output pixel reads x, in the shape and units of `offsets`; pixel centres are at +1/2.

        Positions beyond the outermost pixel centres are clamped to them when x is read, not here.
        """
        offsets = self.offsets(offset, scope)
        return _start_positions(offsets, self) + offsets


Sampler = Callable[[Tensor, Tensor, Tensor | None, PointSampling], Tensor]


def choose_sampler(x: Tensor, offset: Tensor, scope: Tensor | None) -> Sampler:
    """The sampler that is fastest for these tensors."""
    if not has_kernels(x, offset, scope):
        return plain_sample
    return fused_sample if x.is_cuda else compiled_sample


def has_kernels(x: Tensor, *others: Tensor | None) -> bool:
    """Whether kernels are to read map x at positions, and with weights, made of the others: see `operators.covers`.

    Not in exports, whose readers know PyTorch's operators alone, unless `sampling_form` says so.
    """
    if _form is None and (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return False
    return _form in (None, "operators") and operators.covers(x, *others)


def fused_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """As `plain_sample`, in one pass, with no tensor of positions. NaN and infinite positions give NaN only there."""
    style, start = sampling.style, sampling.start
    how = style, sampling.scale, sampling.groups, start, float(sampling.factor)
    return operators.apply("sample_offsets", x, offset, scope, *how)


def compiled_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """As `plain_sample`, by positions and compiled code. NaN and infinite positions give NaN only there."""
    (B, _, H, W), s = x.shape, sampling.scale
    offset = at_least_float32(offset)
    if scope is not None:
        offset = offset * torch.sigmoid(at_least_float32(scope))
    # Columns and rows stay apart, as they come: it saves a copy in an order that is bad for the cache.
    if sampling.style == "lp":
        offset = F.pixel_shuffle(offset, s)
    offset = offset.reshape(B, 2, sampling.groups, 1, s * H, s * W)
    starts = _start_positions(offset.movedim(1, -1), sampling).movedim(-1, 0)
    positions = torch.add(starts[:, None, None], offset, alpha=sampling.factor)
    return operators.apply("sum_points", x, positions.movedim(1, -1), None, True)


def plain_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Sample x bilinearly at start + factor · offset [· sigmoid(scope)]. x [B, C, H, W] -> [B, C, sH, sW].

    offset, scope: see `PointSampling.offsets`. Inputs may have any floating dtypes; the result has the dtype of x.
    Positions are computed in float32 or wider. If any position is NaN or infinite, the whole result is NaN.
    """
    B, C, H, W = x.shape
    g, s = sampling.groups, sampling.scale
    offset = _arrange_offsets(offset, scope, sampling)
    # grid_sample takes positions in -1..1 from edge to edge. All its inputs are float32, so autocast does not change
    # them. Its half-precision kernel on the CPU indexes with 16 bits and must never be called.
    unit = grid_unit(x, offset)
    grid = torch.addcmul(_start_positions(offset, sampling) * unit - 1, offset, sampling.factor * unit)
    # NaN in the positions is passed on through the features, so that the loss becomes NaN.
    poison = (grid.detach() * 0).sum()
    features = (x.to(offset.dtype) + poison).reshape(B * g, C // g, H, W)
    output = read_points(features, grid.reshape(B * g, s * H, s * W, 2), "border")
    return output.reshape(B, C, s * H, s * W).to(x.dtype)


def read_points(maps: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    """Read maps [M, D, H, W] at a grid [M, h, w, 2], -1..1 from edge to edge -> [M, D, h, w]. Both float32 or wider.

    Positions that are not finite are read somewhere: the caller must make the result NaN. At NaN the kernel for CPUs
    would access memory out of bounds.
    """
    if _form == "gather":
        return gather_points(maps, grid, padding)
    # Far positions need no more than a safe conversion to whole numbers: their value and gradient stay the same.
    grid = finite_grid(grid)
    if torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled():
        return _select_points(maps, grid, padding)
    return F.grid_sample(maps, grid, "bilinear", padding, align_corners=False)


def _select_points(maps: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    """The same by index_select. On CUDA its gradient can be summed in a fixed order, that of grid_sample cannot."""
    M, D, H, W = maps.shape
    pixels = maps.flatten(2).transpose(1, 2).reshape(M * H * W, D)
    positions = (grid + 1) / grid_unit(maps, grid) - 0.5
    column, row = positions.unbind(-1)
    if padding == "border":
        column, row = _clamped(column, W - 1), _clamped(row, H - 1)
    left, top = column.detach().floor(), row.detach().floor()
    first = H * W * torch.arange(M, device=grid.device)[:, None, None]
    output = maps.new_zeros(())
    for y, share_y in ((top, 1 - (row - top)), (top + 1, row - top)):
        for x, share_x in ((left, 1 - (column - left)), (left + 1, column - left)):
            share = share_y * share_x * ((x >= 0) & (x < W) & (y >= 0) & (y < H))
            index = first + (y.clamp(0, H - 1) * W + x.clamp(0, W - 1)).long()
            output = output + pixels.index_select(0, index.flatten()).reshape(*index.shape, D) * share[..., None]
    return output.movedim(-1, 1)


def _clamped(position: Tensor, last: int) -> Tensor:
    """Clamp to 0..last; as in grid_sample there is no gradient there, the ends included."""
    return torch.where((position > 0) & (position < last), position, position.detach().clamp(0, last))


def gather_points(maps: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    """What `read_points` reads, in operators that every runtime has: four rows gathered per point, weighted and summed.

    For exports: runtimes disagree about `grid_sample` at borders, or lack it. Slower than it in PyTorch. Positions that
    are not finite give NaN or a pixel of the map.
    """
    (M, D, H, W), (h, w) = maps.shape, grid.shape[1:3]
    # The pixels of all maps as rows, so that a point is read by one index for all its channels.
    pixels = maps.flatten(2).transpose(1, 2).reshape(M * H * W, D)
    first = torch.arange(M, device=maps.device)[:, None, None] * (H * W)
    columns, column_weights = _neighbours(grid[..., 0], W, padding)
    rows, row_weights = _neighbours(grid[..., 1], H, padding)
    total: Tensor | None = None
    for row, row_weight in zip(rows, row_weights, strict=True):
        for column, column_weight in zip(columns, column_weights, strict=True):
            index = (first + row * W + column).reshape(-1)
            part = pixels.index_select(0, index) * (row_weight * column_weight).reshape(-1, 1)
            total = part if total is None else total + part
    assert total is not None
    return total.reshape(M, h * w, D).transpose(1, 2).reshape(M, D, h, w)


def _neighbours(grid: Tensor, length: int, padding: Padding) -> tuple[list[Tensor], list[Tensor]]:
    """The two pixels around each position along one axis, and their weights. grid: -1..1 from edge to edge."""
    position = ((grid + 1) * length - 1) / 2  # the centre of the first pixel is at 0
    # Within a pixel of the map all weights are as they were, and farther away all of them are 0.
    position = position.clamp(0, length - 1) if padding == "border" else position.clamp(-1, length)
    lower = position.floor()
    upper_weight = position - lower
    pixels, weights = [lower, lower + 1], [1 - upper_weight, upper_weight]
    if padding == "zeros":
        inside = [((pixel >= 0) & (pixel < length)).to(grid.dtype) for pixel in pixels]
        weights = [weight * is_inside for weight, is_inside in zip(weights, inside, strict=True)]
    # Clamped as whole numbers, NaN is an index, too.
    return [pixel.to(torch.int64).clamp(0, length - 1) for pixel in pixels], weights


SamplingForm = Literal["grid_sample", "gather"]
_form: SamplingForm | Literal["operators"] | None = None


@contextmanager
def sampling_form(form: SamplingForm | Literal["operators"]) -> Iterator[None]:
    """Within this context points are read by PyTorch's `grid_sample`, by `gather_points`, or by our own operators.

    Without it, exports have `grid_sample`, and all else has our operators. A program that has them runs where
    `upsamplers` is imported.
    """
    global _form
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


def grid_unit(x: Tensor, positions: Tensor) -> Tensor:
    """The size of a pixel of x in grid units, (column, row), in the dtype of positions."""
    H, W = x.shape[2:]
    return torch.cat([positions.new_full((1,), 2 / W), positions.new_full((1,), 2 / H)])


def finite_grid(grid: Tensor) -> Tensor:
    """Positions in grid units for which PyTorch's kernels are safe. What is read at finite ones stays the same."""
    return grid.nan_to_num().clamp(-FAR, FAR)


def _arrange_offsets(offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Apply the scope and rearrange: offsets before the constant factor, [B, g, sH, sW, 2], float32 or wider."""
    B, _, h, w = offset.shape
    g, s = sampling.groups, sampling.scale
    offset = at_least_float32(offset)
    if scope is not None:
        offset = offset * torch.sigmoid(at_least_float32(scope))
    if sampling.style == "pl":
        return offset.reshape(B, 2, g, h, w).permute(0, 2, 3, 4, 1)
    offset = offset.reshape(B, 2, g, s, s, h, w).permute(0, 2, 5, 3, 6, 4, 1)
    return offset.flatten(2).reshape(B, g, s * h, s * w, 2)  # in two steps; `shuffle` says why


def _start_positions(offset: Tensor, sampling: PointSampling) -> Tensor:
    """The positions for zero offsets, [sH, sW, 2] in low-res pixels. Size and dtype: of offset [..., sH, sW, 2]."""
    rows, columns = (torch.arange(length, dtype=offset.dtype, device=offset.device) for length in offset.shape[-3:-1])
    if sampling.start == "bilinear":
        columns, rows = (columns + 0.5) / sampling.scale, (rows + 0.5) / sampling.scale
    else:
        columns, rows = (columns / sampling.scale).floor() + 0.5, (rows / sampling.scale).floor() + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy")).movedim(0, -1)
