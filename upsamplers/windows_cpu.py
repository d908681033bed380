"""Sums of windows with predicted kernels on CPUs by compiled code: the operators behind `upsamplers.reassemble`.

Maps are float32 or bfloat16, kernels and all sums float32. Results are the same bits for any number of threads.
"""

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upsamplers.maps_cpu import Map, as_map, can_read, dense, layout, load_functions, operator, run


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("maps", "groups", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("kernel", "dilation", "scale", "edge")),
        ("kernels", ctypes.c_void_p),
        ("x", Map),
        ("y", Map),
    )


def covers(*tensors: Tensor) -> bool:
    """Whether compiled code can read the tensors: see `maps_cpu.can_read`."""
    return can_read(*tensors) and is_available()


def is_available() -> bool:
    """Whether there is compiled code; the first call may take seconds to compile it."""
    return _library() is not None


def sum_windows(x: Tensor, kernels: Tensor, dilation: int, edge: int) -> Tensor:
    """See `upsamplers.reassemble.reassemble`. edge: pixels around the map that x has already; beyond them are zeros."""
    half, x = x.dtype == torch.float16, x.float() if x.dtype == torch.float16 else x
    total: Tensor = _sum(x, kernels.float(), dilation, edge)
    return total.half() if half else total


def score_windows(y: Tensor, x: Tensor, kernel: int) -> Tensor:
    """Products of y [B, C, sH, sW] with the windows of x [B, C, H, W] -> [B, 1, K², s², H, W] in float32."""
    y, x = (tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in (y, x))
    scores: Tensor = _score(y, x, 1, kernel, 1, 0)
    return scores


# Each of the three gives one of x [B, C, H, W], kernels [B, G, K², s², H, W] and y [B, C, sH, sW] from the others. So
# the gradients of each are the other two.


@operator("sum_windows")
def _sum(x: Tensor, kernels: Tensor, dilation: int, edge: int) -> Tensor:
    """For each pixel of y its window in x, weighted by its kernel, in the dtype of x."""
    x, kernels = dense(x), kernels.contiguous()
    y = _sum_like(x, kernels, dilation, edge)
    _run("sum_windows", x, kernels, y, dilation, edge)
    return y


@torch.library.register_fake("denseup::sum_windows")
def _sum_like(x: Tensor, kernels: Tensor, dilation: int, edge: int) -> Tensor:
    subpixels, H, W = kernels.shape[3:]
    scale = math.isqrt(subpixels)
    shape = (*x.shape[:2], scale * H, scale * W)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


@operator("score_windows")
def _score(y: Tensor, x: Tensor, groups: int, kernel: int, dilation: int, edge: int) -> Tensor:
    """For each pixel of y its products with the pixels of its window in x, float32."""
    y, x = dense(y), dense(x)
    kernels = _score_like(y, x, groups, kernel, dilation, edge)
    _run("score_windows", x, kernels, y, dilation, edge)
    return kernels


@torch.library.register_fake("denseup::score_windows")
def _score_like(y: Tensor, x: Tensor, groups: int, kernel: int, dilation: int, edge: int) -> Tensor:
    H, W = (length - 2 * edge for length in x.shape[2:])
    scale = y.shape[2] // H
    return y.new_empty((len(y), groups, kernel**2, scale**2, H, W), dtype=torch.float32)


@operator("spread_windows")
def _spread(y: Tensor, kernels: Tensor, dilation: int, edge: int) -> Tensor:
    """For each pixel of x the pixels of y in whose window it is, weighted by their kernels, in the dtype of y."""
    y, kernels = dense(y), kernels.contiguous()
    x = _spread_like(y, kernels, dilation, edge)
    _run("spread_windows", x, kernels, y, dilation, edge)
    return x


@torch.library.register_fake("denseup::spread_windows")
def _spread_like(y: Tensor, kernels: Tensor, dilation: int, edge: int) -> Tensor:
    shape = (*y.shape[:2], *(length + 2 * edge for length in kernels.shape[4:]))
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout(y))


# --- gradients --------------------------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.dilation, ctx.edge = inputs[-2:]


def _backward_of_sum(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, kernels = ctx.saved_tensors
    wants_x, wants_kernels = ctx.needs_input_grad[:2]
    window = kernels.shape[1], math.isqrt(kernels.shape[2]), ctx.dilation, ctx.edge
    grad_x = _spread(gradient, kernels, *window[2:]) if wants_x else None
    return grad_x, _score(gradient, x, *window) if wants_kernels else None, None, None


def _backward_of_score(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    y, x = ctx.saved_tensors
    wants_y, wants_x = ctx.needs_input_grad[:2]
    grad_y = _sum(x, gradient, ctx.dilation, ctx.edge).to(y.dtype) if wants_y else None
    grad_x = _spread(y, gradient, ctx.dilation, ctx.edge).to(x.dtype) if wants_x else None
    return grad_y, grad_x, None, None, None, None


def _backward_of_spread(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    y, kernels = ctx.saved_tensors
    wants_y, wants_kernels = ctx.needs_input_grad[:2]
    window = kernels.shape[1], math.isqrt(kernels.shape[2]), ctx.dilation, ctx.edge
    grad_y = _sum(gradient, kernels, *window[2:]) if wants_y else None
    return grad_y, _score(y, gradient, *window) if wants_kernels else None, None, None


torch.library.register_autograd("denseup::sum_windows", _backward_of_sum, setup_context=_keep)
torch.library.register_autograd("denseup::score_windows", _backward_of_score, setup_context=_keep)
torch.library.register_autograd("denseup::spread_windows", _backward_of_spread, setup_context=_keep)


# --- one call --------------------------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.CDLL | None:
    names = ("sum_windows", "score_windows", "spread_windows")
    return load_functions(Path(__file__).with_suffix(".cpp"), _Call, names)


def _run(name: str, x: Tensor, kernels: Tensor, y: Tensor, dilation: int, edge: int) -> None:
    B, groups, taps, subpixels, H, W = kernels.shape
    maps = B * groups, groups, x.shape[1] // groups, H, W
    window = math.isqrt(taps), dilation, math.isqrt(subpixels), edge
    call = _Call(*maps, *window, kernels.data_ptr(), as_map(x), as_map(y))
    run(_library(), name, call, taps * y.numel())
