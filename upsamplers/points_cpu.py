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

from upsamplers.base import Padding
from upsamplers.maps_cpu import Map, as_map, can_read, dense, layout, load_functions, operator, run

_ENOUGH_MAPS = 4  # images x groups


class _Call(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("maps", "groups", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("points", "pixels", "slice", "border")),
        ("positions", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("of_image", "of_group", "of_point", "of_pixel", "of_axis")),
        ("weights", ctypes.c_void_p),
        *((name, Map) for name in ("x", "y", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("grad_positions", "scores")),
    )


def is_available() -> bool:
    """Whether there is compiled code; the first call may take a second to compile it."""
    return _library() is not None


def covers(x: Tensor, *others: Tensor | None) -> bool:
    """Whether compiled code can read map x, with positions and weights made of the others: on a CPU, float32 or less.
    See `maps_cpu.can_read`.
    """
    return can_read(x, *others) and is_available()


def sample_points(x: Tensor, positions: Tensor, weights: Tensor | None, padding: Padding) -> Tensor:
    """See `upsamplers.points.sample_points`."""
    positions = positions.float()
    half, x = x.dtype == torch.float16, x.float() if x.dtype == torch.float16 else x
    if weights is not None:
        weights = weights.float().expand(positions.shape[:-1])
    total: Tensor = _sum(x, positions, weights, padding == "border")
    return total.half() if half else total


def score_points(query: Tensor, key: Tensor, positions: Tensor, padding: Padding) -> Tensor:
    """See `upsamplers.points.score_points`."""
    positions = positions.float()
    query, key = (tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in (query, key))
    scores: Tensor = _scores(query, key, positions, padding == "border")
    return scores


@operator("sum_points")
def _sum(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    """Sum x [B, C, H, W] at positions [B, g, n, h, w, 2], weights [B, g, n, h, w] -> [B, C, h, w]."""
    x, positions = dense(x), _dense_positions(positions)
    weights = None if weights is None else weights.contiguous()
    output = _sum_like(x, positions, weights, border)
    call = _call(x, positions, border, output)
    call.weights = None if weights is None else weights.data_ptr()
    _run("sum_points", call)
    return output


@torch.library.register_fake("denseup::sum_points")
def _sum_like(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    shape = (*x.shape[:2], *positions.shape[3:5])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


@operator("score_points")
def _scores(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    """Products of query [B, C, h, w] and key [B, C, H, W] at positions [B, g, n, h, w, 2] -> [B, g, n, h, w]."""
    query, key, positions = dense(query), dense(key), _dense_positions(positions)
    call = _call(key, positions, border, query)
    scores = positions.new_empty(_slices(call), *positions.shape[:-1])
    call.scores = scores.data_ptr()
    _run("score_points", call)
    return _total(scores)


@torch.library.register_fake("denseup::score_points")
def _scores_like(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    return positions.new_empty(positions.shape[:-1])


@operator("sum_points_backward")
def _gradients(
    y: Tensor, x: Tensor, positions: Tensor, weights: Tensor | None, border: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the sum of y · _sum(x, positions, weights) with respect to x, positions and weights."""
    y, x, positions = dense(y), dense(x), _dense_positions(positions)
    weights = None if weights is None else weights.contiguous()
    grad_x = torch.empty_like(x)
    call = _call(x, positions, border, y)
    call.weights = None if weights is None else weights.data_ptr()
    call.grad_x = as_map(grad_x)
    grad_positions = positions.new_empty(_slices(call), positions.numel())
    call.grad_positions = grad_positions.data_ptr()
    grad_weights = positions.new_empty(_slices(call), *(positions.shape[:-1] if weights is not None else (0,)))
    call.scores = grad_weights.data_ptr() if weights is not None else None
    _run("score_points", call)
    return grad_x, _total(grad_positions).as_strided(positions.shape, positions.stride()), _total(grad_weights)


@torch.library.register_fake("denseup::sum_points_backward")
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


torch.library.register_autograd("denseup::sum_points", _backward_of_sum, setup_context=_keep)
torch.library.register_autograd("denseup::score_points", _backward_of_scores, setup_context=_keep)


# --- one call --------------------------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_functions(Path(__file__).with_suffix(".cpp"), _Call, ("sum_points", "score_points"))


def _dense_positions(positions: Tensor) -> Tensor:
    """Positions [B, g, n, h, w, 2] as they lie in memory, or if columns and rows are apart [B, 2, g, n, h, w]."""
    return positions if positions.movedim(-1, 1).is_contiguous() else positions.contiguous()


def _call(x: Tensor, positions: Tensor, border: bool, y: Tensor) -> _Call:
    (B, C, H, W), (g, n, h, w) = x.shape, positions.shape[1:5]
    sizes = B * g, g, C // g, H, W, n, h * w, _slice(x, y, B * g, C // g), border
    image, group, point, _, pixel, axis = positions.stride()
    return _Call(*sizes, positions.data_ptr(), image, group, point, pixel, axis, None, as_map(x), as_map(y))


def _slice(x: Tensor, y: Tensor, maps: int, channels: int) -> int:
    """How many channels to read at a time, as measured: all, in place, if the maps keep enough threads busy."""
    if layout(x) != torch.channels_last:
        return 16
    in_place = layout(y) == torch.channels_last and x.dtype == y.dtype == torch.float32 and channels % 16 == 0
    return channels if in_place and maps >= _ENOUGH_MAPS else 32


def _slices(call: _Call) -> int:
    return -(-call.channels // call.slice)


def _total(parts: Tensor) -> Tensor:
    """The sum over the first dimension, in its order."""
    total = parts[0].clone() if len(parts) > 1 else parts[0]
    for part in parts[1:]:
        total += part
    return total


def _run(name: str, call: _Call) -> None:
    run(_library(), name, call, call.maps * call.channels * call.points * call.pixels)
