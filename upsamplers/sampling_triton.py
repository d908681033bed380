# mypy: disable-error-code="no-untyped-def"
# (Only Triton knows the types that kernels take and return.)
"""DySample's point sampling as Triton kernels: from raw offsets to features in one pass, with no intermediate tensors.

The result is that of `upsamplers.sampling.plain_sample`. Positions and sums are float32 whatever the dtypes.

The backward pass uses no atomics. The gradient of an offset is a sum over channels at its own output pixel. The
gradient of a feature pixel is a sum over the output pixels that read it. Offsets are learned and unbounded, so these
output pixels can be anywhere. A stable sort by the cell that they read (the top left of the four feature pixels around
a position) gives one list of output pixels per cell. A feature pixel sums, in order, the lists of the four cells around
it. This is exact and deterministic for any offsets. It is slow only if a large part of the positions is in one cell.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor
from torch.autograd.function import FunctionCtx

from upsamplers.sampling import PointSampling, plain_sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Channels x pixels that one program holds. Reads are longer along the dimension that is contiguous in memory.
TILE_CHANNELS_FIRST = (32, 32)
TILE_CHANNELS_LAST = (64, 16)
POINTS_PER_PROGRAM = 256  # of `_cells_kernel`, which has no channels


def supports(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int) -> bool:
    """Whether the kernels support these tensors: not other dtypes, tensor subclasses, empty or enormous maps."""
    tensors = [x, offset] if scope is None else [x, offset, scope]
    points = offset.numel() // 2
    return (
        all(type(tensor) is Tensor and tensor.dtype in DTYPES for tensor in tensors)
        and x.numel() > 0
        and points < 2**31  # cells and output pixels are numbered in int32
        and x.shape[0] * groups < 2**16  # the second dimension of a CUDA grid
    )


def fused_sample(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
    """Sample x at the positions given by the offsets. x [B, C, H, W] -> [B, C, sH, sW].

    Arguments and result are those of `plain_sample`, except that NaN or infinite positions give NaN only there, in the
    result and in the gradients of their offsets. x is float32, bfloat16 or float16 with any strides. The result has its
    dtype, also under autocast, and its memory format. Second derivatives are those of the plain path: RuntimeError if
    PyTorch has no second derivative of grid_sample (2.10, 2.11).
    """
    # Offsets have few channels compared with x. A copy, if needed, costs less than kernels for every layout.
    scope = None if scope is None else scope.contiguous()
    output: Tensor = _FusedSample.apply(x, offset.contiguous(), scope, sampling)
    return output


class _FusedSample(torch.autograd.Function):
    """Saves only its tensor arguments for the backward pass."""

    @staticmethod
    def forward(x: Tensor, offset: Tensor, scope: Tensor | None, sampling: PointSampling) -> Tensor:
        (B, C, H, W), scale, groups = x.shape, sampling.scale, sampling.groups
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        output = torch.empty((B, C, scale * H, scale * W), dtype=x.dtype, device=x.device, memory_format=layout)
        constants = _kernel_constants(x, sampling)
        grid = (triton.cdiv(scale * H * scale * W, constants["BLOCK_P"]), B * groups)
        with torch.cuda.device_of(x):
            strides = *x.stride(), *output.stride()
            _forward_kernel[grid](
                x, offset, scope, output, H, W, C // groups, float(sampling.factor), *strides, **constants
            )
        return output

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.sampling = inputs[3]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return *_differentiable_gradients(grad, inputs, needed, ctx.sampling), None
        x, offset, scope = inputs
        factor, constants = float(ctx.sampling.factor), _kernel_constants(x, ctx.sampling)
        grad_x = grad_offset = grad_scope = None
        with torch.cuda.device_of(x):
            if needed[0]:
                grad_x = _features_gradient(grad, x, offset, scope, factor, constants)
            if needed[1] or needed[2]:
                grad_offset, grad_scope = _offsets_gradient(grad, x, offset, scope, factor, constants)
        return grad_x, grad_offset, grad_scope, None


def _differentiable_gradients(
    grad: Tensor, inputs: tuple[Tensor | None, ...], needed: tuple[bool, ...], sampling: PointSampling
) -> list[Tensor | None]:
    """The gradients of the plain path, which can be differentiated again."""
    # Offsets are computed from x. With views, the gradient of x does not include the path through the offsets.
    views: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    x, offset, scope = views
    output = plain_sample(x, offset, scope, sampling)
    leaves = [view for view, is_needed in zip(views, needed, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(output, leaves, grad, create_graph=True))
    return [next(gradients) if is_needed else None for is_needed in needed]


def _kernel_constants(x: Tensor, sampling: PointSampling) -> dict[str, Any]:
    """The constexpr arguments of the kernels. Triton compiles a kernel for each combination."""
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
    grad: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, factor: float, constants: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Gradients of offset and scope, from the gradient of the output, grad [B, C, sH, sW]."""
    B, C, H, W = x.shape
    G, S = constants["G"], constants["S"]
    grad_offset = torch.empty_like(offset)
    grad_scope = None if scope is None else torch.empty_like(scope)
    grid = (triton.cdiv(S * H * S * W, constants["BLOCK_P"]), B * G)
    _offsets_kernel[grid](
        x, offset, scope, grad, grad_offset, grad_scope, H, W, C // G, factor, *x.stride(), *grad.stride(), **constants
    )
    return grad_offset, grad_scope


def _features_gradient(
    grad: Tensor, x: Tensor, offset: Tensor, scope: Tensor | None, factor: float, constants: dict[str, Any]
) -> Tensor:
    """The gradient of x, from the gradient of the output, grad [B, C, sH, sW]."""
    B, C, H, W = x.shape
    G, S = constants["G"], constants["S"]
    cells = torch.empty(B * G * S * H * S * W, dtype=torch.int32, device=x.device)
    options = {name: constants[name] for name in ("G", "S", "SHUFFLED", "NEAREST")} | {"BLOCK_P": POINTS_PER_PROGRAM}
    _cells_kernel[triton.cdiv(S * H * S * W, POINTS_PER_PROGRAM), B * G](offset, scope, cells, H, W, factor, **options)
    cells, points = cells.sort(stable=True)
    bounds = torch.arange(B * G * H * W + 1, dtype=torch.int32, device=x.device)
    begins = torch.searchsorted(cells, bounds, out_int32=True)  # where the list of each cell begins; last, the end
    grad_x = torch.empty_like(x)
    grid = (triton.cdiv(H * W, constants["BLOCK_P"]), B * G, triton.cdiv(C // G, constants["BLOCK_C"]))
    maps = (offset, scope, points, begins, grad, grad_x)
    _features_kernel[grid](*maps, H, W, C // G, factor, *grad.stride(), *grad_x.stride(), **constants)
    return grad_x


# In the kernels, [P] are the pixels and [C] the channels of one program. Addresses are int64, for maps beyond 2**31.

# If Triton knew that the width is aligned, each thread would take 8 consecutive pixels to make writes wide. Then the
# reads, which are the larger part, would no longer be contiguous within a warp.
_jit_ignoring_width_alignment = triton.jit(do_not_specialize_on_alignment=["W"])


@triton.jit
def _load_axis(
    offset, scope, AXIS: tl.constexpr, image, group, row, column, mask, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """For output pixels [P] and one axis: position, raw offset and gate in float32, and the address of the last two.

    The position is in low-res pixels, 0 at the centre of the first. The gate is sigmoid(scope), or 1 without scope.
    """
    if SHUFFLED:
        plane = (image * 2 + AXIS) * G + group
        address = (plane.to(tl.int64) * (S * H) + row) * (S * W) + column
    else:
        plane = (((image * 2 + AXIS) * G + group) * S + row % S) * S + column % S
        address = (plane.to(tl.int64) * H + row // S) * W + column // S
    raw = tl.load(offset + address, mask=mask, other=0.0).to(tl.float32)
    gate = tl.full(raw.shape, 1.0, tl.float32)
    if scope is not None:
        gate = 1.0 / (1.0 + tl.exp(-tl.load(scope + address, mask=mask, other=0.0).to(tl.float32)))
    along = column if AXIS == 0 else row
    start = (along // S).to(tl.float32)
    if not NEAREST:
        start += (2 * (along % S) + 1 - S).to(tl.float32) * (0.5 / S)
    return start + raw * gate * factor, raw, gate, address


@triton.jit
def _load_points(
    offset, scope, image, group, row, column, mask, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """The positions that output pixels [P] read: columns and rows."""
    X, _, _, _ = _load_axis(offset, scope, 0, image, group, row, column, mask, H, W, factor, G, S, SHUFFLED, NEAREST)
    Y, _, _, _ = _load_axis(offset, scope, 1, image, group, row, column, mask, H, W, factor, G, S, SHUFFLED, NEAREST)
    return X, Y


@triton.jit
def _clamp(position, size):
    """Clamp to the outermost pixel centres. NaN and infinity become 0, so that they are never used as an address."""
    nearest = tl.minimum(tl.maximum(position, 0.0), (size - 1) * 1.0)
    return tl.where(tl.abs(position) < float("inf"), nearest, 0.0)


@triton.jit
def _pointers(base, image, channel, row, column, s_b, s_c, s_h, s_w):
    """Pointers [C, P] to channels [C] and pixels [P] of one image, given base pointer and strides of the tensor."""
    planes = base + image.to(tl.int64) * s_b + channel.to(tl.int64) * s_c
    return planes[:, None] + (row.to(tl.int64) * s_h + column.to(tl.int64) * s_w)[None, :]


@triton.jit
def _load_corners(x, image, channel, X, Y, mask, H, W, s_b, s_c, s_h, s_w):
    """The four features around clamped positions, row by row, and the fractional parts of column and row.

    Features are float32 [C, P], fractions float32 [1, P]. Beyond the border features and the fraction are 0.
    """
    left, top = tl.floor(X).to(tl.int32), tl.floor(Y).to(tl.int32)
    right, below = mask & (left + 1 < W)[None, :], mask & (top + 1 < H)[None, :]
    at = _pointers(x, image, channel, top, left, s_b, s_c, s_h, s_w)
    p = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    q = tl.load(at + s_w, mask=right, other=0.0).to(tl.float32)
    r = tl.load(at + s_h, mask=below, other=0.0).to(tl.float32)
    s = tl.load(at + s_h + s_w, mask=right & below, other=0.0).to(tl.float32)
    return p, q, r, s, (X - left)[None, :], (Y - top)[None, :]


@_jit_ignoring_width_alignment
def _forward_kernel(
    x, offset, scope, output, H, W, channels, factor, x_b, x_c, x_h, x_w, out_b, out_c, out_h, out_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute output pixels [P] of one group in one image, one tile of channels after another."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, Y = _load_points(offset, scope, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST)
    poison = (X * 0.0 + Y * 0.0)[None, :]  # NaN where a position is NaN or infinite, else 0
    X, Y = _clamp(X, W), _clamp(Y, H)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        mask = (channel < channels)[:, None] & inside[None, :]
        channel += group * channels
        p, q, r, s, a, b = _load_corners(x, image, channel, X, Y, mask, H, W, x_b, x_c, x_h, x_w)
        value = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s) + poison
        at = _pointers(output, image, channel, row, column, out_b, out_c, out_h, out_w)
        tl.store(at, value.to(output.dtype.element_ty), mask=mask)


@_jit_ignoring_width_alignment
def _offsets_kernel(
    x, offset, scope, grad, grad_offset, grad_scope, H, W, channels, factor,
    x_b, x_c, x_h, x_w, grad_b, grad_c, grad_h, grad_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of offset and scope for output pixels [P] of one group in one image."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, raw_x, gate_x, at_x = _load_axis(
        offset, scope, 0, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST
    )
    Y, raw_y, gate_y, at_y = _load_axis(
        offset, scope, 1, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST
    )
    poison = X * 0.0 + Y * 0.0
    free_x, free_y = (X > 0) & (X < W - 1), (Y > 0) & (Y < H - 1)  # not clamped
    X, Y = _clamp(X, W), _clamp(Y, H)
    sum_x = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum_y = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        mask = (channel < channels)[:, None] & inside[None, :]
        channel += group * channels
        p, q, r, s, a, b = _load_corners(x, image, channel, X, Y, mask, H, W, x_b, x_c, x_h, x_w)
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
        tl.store(grad_scope + at_x, (slope_x * raw_x * gate_x * (1 - gate_x)).to(dtype), mask=inside)
        tl.store(grad_scope + at_y, (slope_y * raw_y * gate_y * (1 - gate_y)).to(dtype), mask=inside)


@triton.jit
def _cells_kernel(
    offset, scope, cells, H, W, factor,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute the cells that output pixels [P] read: the flat index in [B, G, H, W] of the top-left low-res pixel."""
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < S * H * S * W
    row, column = pixel // (S * W), pixel % (S * W)
    X, Y = _load_points(offset, scope, image, group, row, column, inside, H, W, factor, G, S, SHUFFLED, NEAREST)
    left, top = tl.floor(_clamp(X, W)).to(tl.int32), tl.floor(_clamp(Y, H)).to(tl.int32)
    tl.store(cells + tl.program_id(1) * (S * H * S * W) + pixel, (tl.program_id(1) * H + top) * W + left, mask=inside)


@_jit_ignoring_width_alignment
def _features_kernel(
    offset, scope, points, begins, grad, grad_x, H, W, channels, factor,
    grad_b, grad_c, grad_h, grad_w, x_b, x_c, x_h, x_w,
    G: tl.constexpr, S: tl.constexpr, SHUFFLED: tl.constexpr, NEAREST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of feature pixels [P] and channels [C] of one group in one image.

    points: flat indices of output pixels in [B, G, sH, sW], sorted by cell. begins: where the list of each cell begins.
    """
    image, group = tl.program_id(1) // G, tl.program_id(1) % G
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixel < H * W
    h, w = pixel // W, pixel % W
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = (channel < channels)[:, None]
    channel += group * channels
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for up in tl.static_range(2):
        # The cells to the left and right of the pixel are consecutive, so their two lists form one contiguous list.
        cell = tl.program_id(1) * (H * W) + (h - up) * W + w
        exists = inside & (h >= up)
        begin = tl.load(begins + cell - tl.where(w > 0, 1, 0), mask=exists, other=0)
        end = tl.load(begins + cell + 1, mask=exists, other=0)
        for index in range(tl.max(end - begin, 0)):
            listed = begin + index < end
            point = tl.load(points + begin + index, mask=listed, other=0).to(tl.int32)
            point = tl.where(listed, point - tl.program_id(1) * (S * H * S * W), 0)
            row, column = point // (S * W), point % (S * W)
            X, Y = _load_points(offset, scope, image, group, row, column, listed, H, W, factor, G, S, SHUFFLED, NEAREST)
            X, Y = _clamp(X, W), _clamp(Y, H)
            weight = tl.maximum(1 - tl.abs(X - w), 0.0) * tl.maximum(1 - tl.abs(Y - h), 0.0)
            at = _pointers(grad, image, channel, row, column, grad_b, grad_c, grad_h, grad_w)
            total += weight[None, :] * tl.load(at, mask=valid & listed[None, :], other=0.0).to(tl.float32)
    at = _pointers(grad_x, image, channel, h, w, x_b, x_c, x_h, x_w)
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=valid & inside[None, :])
