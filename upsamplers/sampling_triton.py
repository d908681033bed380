# mypy: disable-error-code="no-untyped-def"
# (What kernels take and return is known to Triton alone.)
"""DySample's point sampling as Triton kernels: from raw offsets to features in one pass, nothing stored in between.

The result is that of `upsamplers.sampling.plain_sample`. Positions and sums are float32 whatever the dtypes.

The backward pass uses no atomics. Gradients of offsets are sums over channels, one output pixel each. The gradient of
a feature pixel gathers from the output pixels that read it. Offsets are learned and unbounded, so these can lie
anywhere: a stable sort by the cell they read (the top left of the four pixels around a position) makes them one list
per cell, and a feature pixel sums the lists of the four cells around it in order. That is exact and repeatable for any
offsets; it is slow only where a large part of them leads to one cell.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor
from torch.autograd.function import FunctionCtx

from upsamplers.sampling import PointSampling, plain_sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Channels x pixels that one program holds; the longer reads are along the dimension that is contiguous in memory.
TILE_CHANNELS_FIRST = (32, 32)
TILE_CHANNELS_LAST = (64, 16)
POINTS = 256  # that one program of the kernel without channels holds


def covers(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int) -> bool:
    """Whether the kernels take these tensors: other dtypes, subclasses, empty and enormous maps are left to PyTorch."""
    tensors = [x, offset] if scope is None else [x, offset, scope]
    points = offset.numel() // 2
    return (
        all(type(tensor) is Tensor and tensor.dtype in DTYPES for tensor in tensors)
        and x.numel() > 0
        and points < 2**31  # cells and output pixels are numbered in int32
        and x.shape[0] * groups < 2**16  # the second dimension of a CUDA grid
    )


def fused_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Sample x where the offsets say; arguments and result as in `plain_sample`. x [B, C, H, W] -> [B, C, sH, sW].

    x is float32, bfloat16 or float16 with any strides; the result has its dtype, autocast or not, and its memory
    format. At positions that are no numbers the result is NaN, and so are the gradients of their offsets. Gradients of
    gradients are the plain path's: a RuntimeError where PyTorch has no second derivative of grid_sample (2.10, 2.11).
    """
    # Few channels beside those of x: a copy, if any, costs less than kernels for every layout.
    scope = None if scope is None else scope.contiguous()
    output: Tensor = _Sample.apply(x, offset.contiguous(), scope, sampling)
    return output


class _Sample(torch.autograd.Function):
    """Keeps its tensor arguments for the backward pass and nothing else."""

    @staticmethod
    def forward(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
        (B, C, H, W), scale, groups = x.shape, sampling.scale, sampling.groups
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        output = torch.empty((B, C, scale * H, scale * W), dtype=x.dtype, device=x.device, memory_format=layout)
        switches = _switches(x, sampling)
        grid = (triton.cdiv(scale * H * scale * W, switches["BLOCK_P"]), B * groups)
        with torch.cuda.device_of(x):
            strides = *x.stride(), *output.stride()
            _forward_kernel[grid](
                x, offset, scope, output, H, W, C // groups, float(sampling.factor), *strides, **switches
            )
        return output

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.sampling = inputs[3]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return *_differentiable_gradients(grad, inputs, wanted, ctx.sampling), None
        x, offset, scope = inputs
        factor, switches = float(ctx.sampling.factor), _switches(x, ctx.sampling)
        grad_x = grad_offset = grad_scope = None
        with torch.cuda.device_of(x):
            if wanted[0]:
                grad_x = _features_gradient(grad, x, offset, scope, factor, switches)
            if wanted[1] or wanted[2]:
                grad_offset, grad_scope = _offsets_gradient(grad, x, offset, scope, factor, switches)
        return grad_x, grad_offset, grad_scope, None


def _differentiable_gradients(
    grad: Tensor, inputs: tuple[Tensor | None, ...], wanted: tuple[bool, ...], sampling: PointSampling
) -> list[Tensor | None]:
    """The gradients of the plain path, which have gradients themselves."""
    # Offsets are computed from x. Gradients with respect to views of the two do not pass from one to the other.
    views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    x, offset, scope = views
    output = plain_sample(x, offset, scope, sampling)
    leaves = [view for view, asked in zip(views, wanted, strict=True) if asked]
    gradients = iter(torch.autograd.grad(output, leaves, grad, create_graph=True))
    return [next(gradients) if asked else None for asked in wanted]


def _switches(x: Tensor, sampling: PointSampling) -> dict[str, Any]:
    """What the kernels are compiled for."""
    channels, pixels = TILE_CHANNELS_LAST if x.stride(1) == 1 else TILE_CHANNELS_FIRST
    block = min(channels, triton.next_power_of_2(x.shape[1] // sampling.groups))
    return {
        "G": sampling.groups,
        "S": sampling.scale,
        "SHUFFLED": sampling.style == "pl",
        "NEAREST": sampling.start == "nearest",
        "BLOCK_C": block,
        "BLOCK_P": channels * pixels // block,
    }


def _offsets_gradient(
    grad: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, factor: float, switches: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Gradients of offset and scope, from that of the output, grad [B, C, sH, sW]."""
    B, C, H, W = x.shape
    G, S = switches["G"], switches["S"]
    grad_offset = torch.empty_like(offset)
    grad_scope = None if scope is None else torch.empty_like(scope)
    grid = (triton.cdiv(S * H * S * W, switches["BLOCK_P"]), B * G)
    _offsets_kernel[grid](
        x, offset, scope, grad, grad_offset, grad_scope, H, W, C // G, factor, *x.stride(), *grad.stride(), **switches
    )
    return grad_offset, grad_scope


def _features_gradient(
    grad: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, factor: float, switches: dict[str, Any]
) -> Tensor:
    """The gradient of x, from that of the output, grad [B, C, sH, sW]."""
    B, C, H, W = x.shape
    G, S = switches["G"], switches["S"]
    cells = torch.empty(B * G * S * H * S * W, dtype=torch.int32, device=x.device)
    options = {name: switches[name] for name in ("G", "S", "SHUFFLED", "NEAREST")} | {"BLOCK_P": POINTS}
    _cells_kernel[triton.cdiv(S * H * S * W, POINTS), B * G](offset, scope, cells, H, W, factor, **options)
    cells, points = cells.sort(stable=True)
    bounds = torch.arange(B * G * H * W + 1, dtype=torch.int32, device=x.device)
    begins = torch.searchsorted(cells, bounds, out_int32=True)  # where the list of each cell begins, and the end
    grad_x = torch.empty_like(x)
    grid = (triton.cdiv(H * W, switches["BLOCK_P"]), B * G, triton.cdiv(C // G, switches["BLOCK_C"]))
    maps = (offset, scope, points, begins, grad, grad_x)
    _features_kernel[grid](*maps, H, W, C // G, factor, *grad.stride(), *grad_x.stride(), **switches)
    return grad_x


# In the kernels [P] are the pixels and [C] the channels of a program. Addresses are int64: large maps pass 2**31.

# A width known to be aligned would let a thread take 8 consecutive pixels for the sake of wide writes. Then the reads,
# the larger part, would no longer lie side by side within a warp.
_by_single_pixels = triton.jit(do_not_specialize_on_alignment=["W"])


@triton.jit
def _read(
    offset, scope, AXIS: tl.constexpr, image, group, row, column, mask, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """For output pixels [P] and one axis: position, offset and gate as float32, and the address of the latter two.

    The position is in low-res pixels from the centre of the first; the gate is 1 without scope.
    """
    if SHUFFLED:
        plane = (image * 2 + AXIS) * G + group
        address = (plane.to(tl.int64) * (S * H) + row) * (S * W) + column
    else:
        plane = (((image * 2 + AXIS) * G + group) * S + row % S) * S + column % S
        address = (plane.to(tl.int64) * H + row // S) * W + column // S
    moved = tl.load(offset + address, mask=mask, other=0.0).to(tl.float32)
    gate = tl.full(moved.shape, 1.0, tl.float32)
    if scope is not None:
        gate = 1.0 / (1.0 + tl.exp(-tl.load(scope + address, mask=mask, other=0.0).to(tl.float32)))
    along = column if AXIS == 0 else row
    start = (along // S).to(tl.float32)
    if not NEAREST:
        start += (2 * (along % S) + 1 - S).to(tl.float32) * (0.5 / S)
    return start + moved * gate * factor, moved, gate, address


@triton.jit
def _positions(
    offset, scope, image, group, row, column, mask, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """Where output pixels [P] read, columns and rows."""
    X, _, _, _ = _read(offset, scope, 0, image, group, row, column, mask, H, W, factor, G, S, SHUFFLED, NEAREST)
    Y, _, _, _ = _read(offset, scope, 1, image, group, row, column, mask, H, W, factor, G, S, SHUFFLED, NEAREST)
    return X, Y


@triton.jit
def _clamped(position, size):
    """The position between the outermost centres; 0 for what is no number, so that it is never an address."""
    nearest = tl.minimum(tl.maximum(position, 0.0), (size - 1) * 1.0)
    return tl.where(tl.abs(position) < float("inf"), nearest, 0.0)


@triton.jit
def _pointers(base, image, channel, row, column, s_b, s_c, s_h, s_w):
    """Pointers [C, P] to channels [C] of one image at pixels [P], from the strides of the tensor at base."""
    planes = base + image.to(tl.int64) * s_b + channel.to(tl.int64) * s_c
    return planes[:, None] + (row.to(tl.int64) * s_h + column.to(tl.int64) * s_w)[None, :]


@triton.jit
def _corners(x, image, channel, X, Y, mask, H, W, s_b, s_c, s_h, s_w):
    """The four features around clamped positions, row by row, and the fractions of the way to the right and down.

    float32 [C, P] and [1, P]. Features beyond the border are 0, as are the fractions of the way there.
    """
    left, top = tl.floor(X).to(tl.int32), tl.floor(Y).to(tl.int32)
    right, below = mask & (left + 1 < W)[None, :], mask & (top + 1 < H)[None, :]
    at = _pointers(x, image, channel, top, left, s_b, s_c, s_h, s_w)
    p = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    q = tl.load(at + s_w, mask=right, other=0.0).to(tl.float32)
    r = tl.load(at + s_h, mask=below, other=0.0).to(tl.float32)
    s = tl.load(at + s_h + s_w, mask=right & below, other=0.0).to(tl.float32)
    return p, q, r, s, (X - left)[None, :], (Y - top)[None, :]


@_by_single_pixels
def _forward_kernel(
    x, offset, scope, output, H, W, channels, factor, x_b, x_c, x_h, x_w, out_b, out_c, out_h, out_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Output pixels [P] of one group in one image, its channels one tile after the other."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, Y = _positions(offset, scope, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST)
    poison = (X * 0.0 + Y * 0.0)[None, :]  # NaN where a position is no number
    X, Y = _clamped(X, W), _clamped(Y, H)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        mask = (channel < channels)[:, None] & inside[None, :]
        channel += group * channels
        p, q, r, s, a, b = _corners(x, image, channel, X, Y, mask, H, W, x_b, x_c, x_h, x_w)
        value = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s) + poison
        at = _pointers(output, image, channel, row, column, out_b, out_c, out_h, out_w)
        tl.store(at, value.to(output.dtype.element_ty), mask=mask)


@_by_single_pixels
def _offsets_kernel(
    x, offset, scope, grad, grad_offset, grad_scope, H, W, channels, factor,
    x_b, x_c, x_h, x_w, grad_b, grad_c, grad_h, grad_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Gradients of the offsets, and of the scope, of output pixels [P] of one group in one image."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, moved_x, gate_x, at_x = _read(
        offset, scope, 0, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST
    )
    Y, moved_y, gate_y, at_y = _read(
        offset, scope, 1, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST
    )
    poison = X * 0.0 + Y * 0.0
    free_x, free_y = (X > 0) & (X < W - 1), (Y > 0) & (Y < H - 1)  # not clamped
    X, Y = _clamped(X, W), _clamped(Y, H)
    sum_x = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum_y = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        mask = (channel < channels)[:, None] & inside[None, :]
        channel += group * channels
        p, q, r, s, a, b = _corners(x, image, channel, X, Y, mask, H, W, x_b, x_c, x_h, x_w)
        at = _pointers(grad, image, channel, row, column, grad_b, grad_c, grad_h, grad_w)
        value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        sum_x += value * ((1 - b) * (q - p) + b * (s - r))
        sum_y += value * ((1 - a) * (r - p) + a * (s - q))
    slope_x = factor * (tl.where(free_x, tl.sum(sum_x, 0), 0.0) + poison)
    slope_y = factor * (tl.where(free_y, tl.sum(sum_y, 0), 0.0) + poison)
    dtype = grad_offset.dtype.element_ty
    tl.store(grad_offset + at_x, (slope_x * gate_x).to(dtype), mask=inside)
    tl.store(grad_offset + at_y, (slope_y * gate_y).to(dtype), mask=inside)
    if scope is not None:
        dtype = grad_scope.dtype.element_ty
        tl.store(grad_scope + at_x, (slope_x * moved_x * gate_x * (1 - gate_x)).to(dtype), mask=inside)
        tl.store(grad_scope + at_y, (slope_y * moved_y * gate_y * (1 - gate_y)).to(dtype), mask=inside)


@triton.jit
def _cells_kernel(
    offset, scope, cells, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The cells that output pixels [P] read: numbers of low-res pixels in [B, G, H, W], their top left ones."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, Y = _positions(offset, scope, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST)
    left, top = tl.floor(_clamped(X, W)).to(tl.int32), tl.floor(_clamped(Y, H)).to(tl.int32)
    tl.store(cells + tl.program_id(1) * (S * H * S * W) + pixel, (tl.program_id(1) * H + top) * W + left, mask=inside)


@_by_single_pixels
def _features_kernel(
    offset, scope, points, begins, grad, grad_x, H, W, channels, factor,
    grad_b, grad_c, grad_h, grad_w, x_b, x_c, x_h, x_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The gradient of feature pixels [P], channels [C] of one group in one image.

    points: numbers of output pixels in [B, G, sH, sW], sorted by cell. begins: where the points of each cell begin.
    """
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < H * W
    h, w = pixel // W, pixel % W
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = (channel < channels)[:, None]
    channel += group * channels
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for up in tl.static_range(2):
        # The cells to the left and right of the pixel are neighbours in the order, so their lists are one.
        cell = tl.program_id(1) * (H * W) + (h - up) * W + w
        exists = inside & (h >= up)
        begin = tl.load(begins + cell - tl.where(w > 0, 1, 0), mask=exists, other=0)
        end = tl.load(begins + cell + 1, mask=exists, other=0)
        for index in range(tl.max(end - begin, 0)):
            listed = begin + index < end
            point = tl.load(points + begin + index, mask=listed, other=0).to(tl.int32)
            point = tl.where(listed, point - tl.program_id(1) * (S * H * S * W), 0)
            row, column = point // (S * W), point % (S * W)
            X, Y = _positions(offset, scope, image, group, row, column, listed, H, W, factor, G, S, SHUFFLED, NEAREST)
            X, Y = _clamped(X, W), _clamped(Y, H)
            weight = tl.maximum(1 - tl.abs(X - w), 0.0) * tl.maximum(1 - tl.abs(Y - h), 0.0)
            at = _pointers(grad, image, channel, row, column, grad_b, grad_c, grad_h, grad_w)
            total += weight[None, :] * tl.load(at, mask=real & listed[None, :], other=0.0).to(tl.float32)
    at = _pointers(grad_x, image, channel, h, w, x_b, x_c, x_h, x_w)
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=real & inside[None, :])
