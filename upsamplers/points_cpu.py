"""Weighted point sampling on CPUs by compiled code: the kernels behind `upsamplers.operators`.

Maps are float32 or bfloat16, positions and all sums float32. Results are the same bits for any number of threads.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from upsamplers.layout import is_channels_last, layout
from upsamplers.maps_cpu import Map, as_map, load_functions, run

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


def sum_points(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    """See `upsamplers.operators`; tensors are `dense`."""
    if x.dtype == torch.float16:
        return sum_points(x.float(), positions, weights, border).half()
    shape = (*x.shape[:2], *positions.shape[3:5])
    output = torch.empty(shape, dtype=x.dtype, memory_format=layout(x))
    call = _call(x, positions, border, output)
    call.weights = None if weights is None else weights.data_ptr()
    _run("sum_points", call)
    return output


def score_points(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    """See `upsamplers.operators`; tensors are `dense`."""
    query, key = _readable(query), _readable(key)
    call = _call(key, positions, border, query)
    scores = positions.new_empty(_slices(call), *positions.shape[:-1])
    call.scores = scores.data_ptr()
    _run("score_points", call)
    return _total(scores)


def sum_points_backward(
    y: Tensor, x: Tensor, positions: Tensor, weights: Tensor | None, border: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `upsamplers.operators`; tensors are `dense`."""
    dtype = x.dtype
    y, x = _readable(y), _readable(x)
    grad_x = torch.empty_like(x)
    call = _call(x, positions, border, y)
    call.weights = None if weights is None else weights.data_ptr()
    call.grad_x = as_map(grad_x)
    grad_positions = positions.new_empty(_slices(call), positions.numel())
    call.grad_positions = grad_positions.data_ptr()
    grad_weights = None if weights is None else weights.new_empty(_slices(call), *weights.shape)
    call.scores = None if grad_weights is None else grad_weights.data_ptr()
    _run("score_points", call)
    total = _total(grad_positions).as_strided(positions.shape, positions.stride())
    return grad_x.to(dtype), total, None if grad_weights is None else _total(grad_weights)


# --- one call --------------------------------------------------------------------------------------------------------


@functools.cache
def _library() -> ctypes.CDLL | None:
    return load_functions(Path(__file__).with_suffix(".cpp"), _Call, ("sum_points", "score_points"))


def _readable(x: Tensor) -> Tensor:
    """X in a dtype that compiled code reads."""
    return x.float() if x.dtype == torch.float16 else x


def _call(x: Tensor, positions: Tensor, border: bool, y: Tensor) -> _Call:
    (B, C, H, W), (g, n, h, w) = x.shape, positions.shape[1:5]
    sizes = B * g, g, C // g, H, W, n, h * w, _slice(x, y, B * g, C // g), border
    image, group, point, _, pixel, axis = positions.stride()
    return _Call(*sizes, positions.data_ptr(), image, group, point, pixel, axis, None, as_map(x), as_map(y))


def _slice(x: Tensor, y: Tensor, maps: int, channels: int) -> int:
    """How many channels to read at a time, as measured: all, in place, if the maps keep enough threads busy."""
    if not is_channels_last(x):
        return 16
    in_place = is_channels_last(y) and x.dtype == y.dtype == torch.float32 and channels % 16 == 0
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
