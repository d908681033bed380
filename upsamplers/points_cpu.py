"""Weighted point sampling on CPUs by compiled code: the operators behind `upsamplers.points` for float32 and below.

Maps are float32 or bfloat16, positions and all sums float32. Results are the same bits for any number of threads.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from upsamplers.base import Padding
from upsamplers.compiled import load

_SOURCE = Path(__file__).with_suffix(".cpp")
_WORTH_A_THREAD = 1 << 16  # channels x points
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("image", "channel", "pixel", "is_bfloat16")),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("maps", "groups", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("points", "pixels", "slice", "border")),
        ("positions", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("of_image", "of_group", "of_point", "of_pixel", "of_axis")),
        ("weights", ctypes.c_void_p),
        *((name, _Map) for name in ("x", "y", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("grad_positions", "scores")),
    )


def is_available() -> bool:
    """Whether there is compiled code; the first call may take a second to compile it."""
    return _library() is not None


def covers(x: Tensor, *others: Tensor | None) -> bool:
    """Whether compiled code can read map x, with positions and weights made of the others: on a CPU, float32 or less.

    Not under tracing (torch.compile, torch.export, ONNX), which knows PyTorch's operators, nor torch.func transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    tensors = [tensor for tensor in (x, *others) if tensor is not None]
    return (
        all(tensor.is_cpu and tensor.dtype in _DTYPES and tensor.numel() > 0 for tensor in tensors) and is_available()
    )


def sample_points(x: Tensor, positions: Tensor, weights: Tensor | None, padding: Padding) -> Tensor:
    """See `upsamplers.points.sample_points`."""
    positions = positions.float()
    half, x = x.dtype == torch.float16, x.float() if x.dtype == torch.float16 else x
    if weights is not None:
        weights = weights.float().expand(positions.shape[:-1])
    function = _sum if _is_observed(x, positions, weights) else _summed
    total: Tensor = function(x, positions, weights, padding == "border")
    return total.half() if half else total


def score_points(query: Tensor, key: Tensor, positions: Tensor, padding: Padding) -> Tensor:
    """See `upsamplers.points.score_points`."""
    positions = positions.float()
    query, key = (tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in (query, key))
    function = _scores if _is_observed(query, key, positions) else _scored
    scores: Tensor = function(query, key, positions, padding == "border")
    return scores


def _is_observed(*tensors: Tensor | None) -> bool:
    """Whether autograd or another mode of PyTorch must know the operator.

    If not, the function behind it is called: the first call of the operator would import PyTorch's compiler, a thousand
    modules and 100 MB.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if torch._C._len_torch_dispatch_stack() or any(type(tensor) not in (Tensor, Parameter) for tensor in given):
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)


def _summed(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    """Sum x [B, C, H, W] at positions [B, g, n, h, w, 2], weights [B, g, n, h, w] -> [B, C, h, w]."""
    x, positions = _dense(x), _dense_positions(positions)
    weights = None if weights is None else weights.contiguous()
    output = _sum_like(x, positions, weights, border)
    call = _call(x, positions, border, output)
    call.weights = None if weights is None else weights.data_ptr()
    _run("sum_points", call)
    return output


_sum = torch.library.custom_op("denseup::sum_points", _summed, mutates_args=(), device_types="cpu")


@_sum.register_fake
def _sum_like(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    shape = (*x.shape[:2], *positions.shape[3:5])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _scored(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    """Products of query [B, C, h, w] and key [B, C, H, W] at positions [B, g, n, h, w, 2] -> [B, g, n, h, w]."""
    query, key, positions = _dense(query), _dense(key), _dense_positions(positions)
    call = _call(key, positions, border, query)
    scores = positions.new_empty(_slices(call), *positions.shape[:-1])
    call.scores = scores.data_ptr()
    _run("score_points", call)
    return _total(scores)


_scores = torch.library.custom_op("denseup::score_points", _scored, mutates_args=(), device_types="cpu")


@_scores.register_fake
def _scores_like(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    return positions.new_empty(positions.shape[:-1])


@torch.library.custom_op("denseup::sum_points_backward", mutates_args=(), device_types="cpu")
def _gradients(
    y: Tensor, x: Tensor, positions: Tensor, weights: Tensor | None, border: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the sum of y · _sum(x, positions, weights) with respect to x, positions and weights."""
    y, x, positions = _dense(y), _dense(x), _dense_positions(positions)
    weights = None if weights is None else weights.contiguous()
    grad_x = torch.empty_like(x)
    call = _call(x, positions, border, y)
    call.weights = None if weights is None else weights.data_ptr()
    call.grad_x = _map(grad_x)
    grad_positions = positions.new_empty(_slices(call), positions.numel())
    call.grad_positions = grad_positions.data_ptr()
    grad_weights = positions.new_empty(_slices(call), *(positions.shape[:-1] if weights is not None else (0,)))
    call.scores = grad_weights.data_ptr() if weights is not None else None
    _run("score_points", call)
    return grad_x, _total(grad_positions).as_strided(positions.shape, positions.stride()), _total(grad_weights)


@_gradients.register_fake
def _gradients_like(
    y: Tensor, x: Tensor, positions: Tensor, weights: Tensor | None, border: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_weights = positions.new_empty(positions.shape[:-1] if weights is not None else (0,))
    return torch.empty_like(x), torch.empty_like(_dense_positions(positions)), grad_weights


# --- gradients --------------------------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.border = inputs[3]


def _backward_of_sum(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, positions, weights = ctx.saved_tensors
    if torch.is_grad_enabled():
        from upsamplers.points import plain_sample_points

        return *_gradients_by(plain_sample_points, ctx, gradient), None
    grad_x, grad_positions, grad_weights = _gradients(gradient.to(x.dtype), x, positions, weights, ctx.border)
    return grad_x, grad_positions, None if weights is None else grad_weights, None


def _backward_of_scores(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    query, key, positions = ctx.saved_tensors
    if torch.is_grad_enabled():
        from upsamplers.points import plain_score_points

        return *_gradients_by(plain_score_points, ctx, gradient), None
    grad_key, grad_positions, _ = _gradients(query, key, positions, gradient, ctx.border)
    grad_query = _sum(key, positions, gradient, ctx.border)
    return grad_query.to(query.dtype), grad_key, grad_positions, None


def _gradients_by(function: Callable[..., Tensor], ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """The same in PyTorch's operators, which can be differentiated again."""
    # Positions are computed from x. With views, the gradient of x does not include the path through them.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    output = function(*views, "border" if ctx.border else "zeros")
    leaves = [view for view in views if view is not None and view.requires_grad]
    found = iter(torch.autograd.grad(output, leaves, gradient, create_graph=True))
    return [next(found) if view is not None and view.requires_grad else None for view in views]


_sum.register_autograd(_backward_of_sum, setup_context=_keep)
_scores.register_autograd(_backward_of_scores, setup_context=_keep)


# --- one call --------------------------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load(_SOURCE)
    if library is not None:
        for function in (library.sum_points, library.score_points):
            function.argtypes, function.restype = (ctypes.POINTER(_Call), ctypes.c_int64), ctypes.c_int
    return library


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_layout(x))


def _dense_positions(positions: Tensor) -> Tensor:
    """Positions [B, g, n, h, w, 2] as they lie in memory, or if columns and rows are apart [B, 2, g, n, h, w]."""
    return positions if positions.movedim(-1, 1).is_contiguous() else positions.contiguous()


def _map(x: Tensor) -> _Map:
    (C, H, W), last = x.shape[1:], _layout(x) == torch.channels_last
    channel, pixel = (1, C) if last else (H * W, 1)
    return _Map(x.data_ptr(), C * H * W, channel, pixel, x.dtype == torch.bfloat16)


def _call(x: Tensor, positions: Tensor, border: bool, y: Tensor) -> _Call:
    (B, C, H, W), (g, n, h, w) = x.shape, positions.shape[1:5]
    slice_channels = 32 if _layout(x) == torch.channels_last else 16  # as measured
    sizes = B * g, g, C // g, H, W, n, h * w, slice_channels, border
    image, group, point, _, pixel, axis = positions.stride()
    return _Call(*sizes, positions.data_ptr(), image, group, point, pixel, axis, None, _map(x), _map(y))


def _slices(call: _Call) -> int:
    return -(-call.channels // call.slice)


def _total(parts: Tensor) -> Tensor:
    """The sum over the first dimension, in its order."""
    total = parts[0].clone() if len(parts) > 1 else parts[0]
    for part in parts[1:]:
        total += part
    return total


def _run(name: str, call: _Call) -> None:
    library = _library()
    assert library is not None
    worth = call.maps * call.channels * call.points * call.pixels // _WORTH_A_THREAD
    threads = max(1, min(torch.get_num_threads(), worth))
    if getattr(library, name)(ctypes.byref(call), threads):
        raise MemoryError("no memory for a slice of the map that is sampled")
