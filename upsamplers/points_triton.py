"""Weighted point sampling on GPUs: the kernels behind `upsamplers.operators` as launched for tensors of given sizes.

Positions and sums are float32 whatever the dtypes of the maps. No gradient depends on the order in which programs run.
That of a position is a sum over channels at its own output pixel. That of a feature pixel is a sum over the output
pixels that read it, which can be anywhere, since offsets are learned and unbounded. Near ones, whose start is in one of
the nine feature pixels around, are looked for there. The others are listed by the cell that they read (the top left of
the four feature pixels around a position), in the order of their numbers; a feature pixel sums the lists of its four
cells. Points without a start are all listed. This is exact for any positions, and slow only if a large part of them is
in one cell.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped]
from torch import Tensor

from upsamplers.layout import is_channels_last, layout
from upsamplers.triton_kernels import (
    BILINEAR,
    NEAREST,
    NO_START,
    cells_kernel,
    features_kernel,
    list_kernel,
    order_kernel,
    score_kernel,
    sum_kernel,
)

# The tile of one program, where channels lie together and where pixels do: bytes or numbers, and the most channels.
BYTES_CHANNELS_LAST, NUMBERS_CHANNELS_FIRST = 4096, 1024  # more would need more registers than there are
MOST_CHANNELS_LAST, MOST_CHANNELS_FIRST = 128, 32
POINTS_PER_PROGRAM = 256  # of kernels without channels
WINDOW = True  # look for near output pixels around each feature pixel; False: list all. benchmarks/gpu/ compares


def sum_points(x: Tensor, positions: Tensor, weights: Tensor | None, border: bool) -> Tensor:
    """See `upsamplers.operators`; tensors are `dense`."""
    return _sum(x, _Places(positions, None, weights), _plan_positions(x, positions, border))


def sum_points_backward(
    y: Tensor, x: Tensor, positions: Tensor, weights: Tensor | None, border: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `upsamplers.operators`; tensors are `dense`."""
    places, plan = _Places(positions, None, weights), _plan_positions(x, positions, border)
    grad_positions = torch.empty_like(positions)
    grad_weights = None if weights is None else torch.empty_like(weights)
    _score(y, x, places, plan, grad_weights, grad_positions, None)
    return _features(y, x, places, plan), grad_positions, grad_weights


def score_points(query: Tensor, key: Tensor, positions: Tensor, border: bool) -> Tensor:
    """See `upsamplers.operators`; tensors are `dense`."""
    scores = positions.new_empty(positions.shape[:-1])
    _score(query, key, _Places(positions, None, None), _plan_positions(key, positions, border), scores, None, None)
    return scores


def sample_offsets(
    x: Tensor, offset: Tensor, scope: Tensor | None, style: str, scale: int, groups: int, start: str, factor: float
) -> Tensor:
    """See `upsamplers.operators`; tensors are `dense`."""
    places = _Places(offset, _as_strided_as(scope, offset), None, factor)
    return _sum(x, places, _plan_offsets(x, offset, style, scale, groups, start))


def sample_offsets_backward(
    y: Tensor,
    x: Tensor,
    offset: Tensor,
    scope: Tensor | None,
    style: str,
    scale: int,
    groups: int,
    start: str,
    factor: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `upsamplers.operators`; tensors are `dense`."""
    places = _Places(offset, _as_strided_as(scope, offset), None, factor)
    plan = _plan_offsets(x, offset, style, scale, groups, start)
    grad_offset = torch.empty_like(offset)
    grad_scope = None if places.scope is None else torch.empty_like(places.scope)
    _score(y, x, places, plan, None, grad_offset, grad_scope)
    return _features(y, x, places, plan), grad_offset, _as_strided_as(grad_scope, scope)


# --- what is the same in every call with tensors of these sizes -------------------------------------------------------


class _Places(NamedTuple):
    """Positions are start + factor · raw [· sigmoid(scope)]."""

    raw: Tensor
    scope: Tensor | None
    weights: Tensor | None
    factor: float = 1.0


class _Plan(NamedTuple):
    """Arguments of kernels.

    sizes: H, W, h, w, channels of a group, points. strides: of raw and scope, by image, axis, group, point, sub-row,
    sub-column, row and column; the last four of an output pixel. tile: the channels and pixels of one program.
    ..._grid: the programs of each kernel.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    x_strides: tuple[int, int, int]
    constants: dict[str, Any]
    window: bool
    tile: dict[str, int]
    sum_grid: tuple[int, ...]
    score_grid: tuple[int, ...]
    cells_grid: tuple[int, ...]
    features_grid: tuple[int, ...]


def _plan_positions(x: Tensor, positions: Tensor, border: bool) -> _Plan:
    image, group, point, row, column, axis = positions.stride()
    strides = image, axis, group, point, 0, 0, row, column
    groups, points, h, w = positions.shape[1:5]
    start = NO_START.value
    return _plan(x.shape, _map_strides(x), x.element_size(), strides, (h, w), points, groups, 1, start, border, False)


def _plan_offsets(x: Tensor, offset: Tensor, style: str, scale: int, groups: int, start: str) -> _Plan:
    image, channel, row, column = offset.stride()
    if style == "pl":
        strides = image, groups * channel, channel, 0, row, column, scale * row, scale * column
    else:
        area = scale**2 * channel
        strides = image, groups * area, area, 0, scale * channel, channel, row, column
    size = scale * x.shape[2], scale * x.shape[3]
    number = NEAREST.value if start == "nearest" else BILINEAR.value
    return _plan(x.shape, _map_strides(x), x.element_size(), strides, size, 1, groups, scale, number, True, WINDOW)


@functools.lru_cache(maxsize=4096)
def _plan(
    shape: torch.Size,
    x_strides: tuple[int, int, int],
    itemsize: int,
    strides: tuple[int, ...],
    size: tuple[int, int],
    points: int,
    groups: int,
    scale: int,
    start: int,
    border: bool,
    window: bool,
) -> _Plan:
    (B, C, H, W), (h, w), channels = shape, size, shape[1] // groups
    most, numbers = MOST_CHANNELS_FIRST, NUMBERS_CHANNELS_FIRST
    if x_strides[1] == 1:
        most, numbers = MOST_CHANNELS_LAST, BYTES_CHANNELS_LAST // itemsize
    block = min(most, int(triton.next_power_of_2(channels)))
    pixels = max(1, numbers // block)
    constants = {"G": groups, "S": scale, "START": start, "BORDER": border}
    # Whether addresses need 64 bits: how many numbers maps, positions and weights have.
    constants["WIDE"] = max(B * C * H * W, B * C * h * w, 2 * B * groups * points * h * w) >= 2**31
    programs, tiles = triton.cdiv(h * w, pixels) * B * groups, triton.cdiv(channels, block)
    return _Plan(
        (H, W, h, w, channels, points),
        strides,
        x_strides,
        constants,
        window,
        {"BLOCK_C": block, "BLOCK_P": pixels},
        (programs, tiles),
        (programs, points),
        (triton.cdiv(h * w, POINTS_PER_PROGRAM) * B * groups, points),
        (triton.cdiv(H * W, pixels) * B * groups, tiles),
    )


def _map_strides(x: Tensor) -> tuple[int, int, int]:
    """Of a dense map, by image, channel and pixel."""
    C, H, W = x.shape[1:]
    return (C * H * W, 1, C) if is_channels_last(x) else (C * H * W, H * W, 1)


def _as_strided_as(x: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The first with the strides of the other, both dense and of one shape."""
    if x is None or other is None or x.stride() == other.stride():
        return x
    return torch.empty_like(other, dtype=x.dtype).copy_(x)


# --- launches ---------------------------------------------------------------------------------------------------------


def _sum(x: Tensor, places: _Places, plan: _Plan) -> Tensor:
    shape = (*x.shape[:2], *plan.sizes[2:4])
    output = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))
    raw, scope, weights, factor = places
    with torch.cuda.device_of(x):
        sum_kernel[plan.sum_grid](
            *(x, raw, scope, weights, output, *plan.sizes, factor),
            *(plan.strides, plan.x_strides, _map_strides(output)),
            **plan.constants,
            **plan.tile,
        )
    return output


def _score(
    y: Tensor,
    x: Tensor,
    places: _Places,
    plan: _Plan,
    scores: Tensor | None,
    grad_raw: Tensor | None,
    grad_scope: Tensor | None,
) -> None:
    """Fill scores, products of y and what is read of x, and the gradients of the sum over weights · scores."""
    raw, scope, weights, factor = places
    with torch.cuda.device_of(x):
        score_kernel[plan.score_grid](
            *(y, x, raw, scope, weights, scores, grad_raw, grad_scope, *plan.sizes, factor),
            *(plan.strides, plan.x_strides, _map_strides(y)),
            **plan.constants,
            **plan.tile,
        )


def _features(y: Tensor, x: Tensor, places: _Places, plan: _Plan) -> Tensor:
    """The gradient of x, where y is that of the sum."""
    grad_x = torch.empty_like(x)
    raw, scope, weights, factor = places
    (H, W, h, w), points = plan.sizes[:4], plan.sizes[5]
    maps = x.shape[0] * plan.constants["G"]
    total = maps * points * h * w
    options = plan.constants | {"WINDOW": plan.window}
    grid, block = (triton.cdiv(total, POINTS_PER_PROGRAM),), POINTS_PER_PROGRAM
    with torch.cuda.device_of(x):
        cells, tickets, mixed, lists = torch.empty((4, total), dtype=torch.int32, device=x.device)
        counts = torch.zeros(maps * (H + 1) * (W + 1) + 1, dtype=torch.int32, device=x.device)
        cells_kernel[plan.cells_grid](
            *(raw, scope, cells, tickets, counts, H, W, h, w, points, factor, plan.strides), **options, BLOCK_P=block
        )
        begins = counts.cumsum(0, dtype=torch.int32)
        list_kernel[grid](cells, tickets, begins, mixed, total, BLOCK_P=block)
        order_kernel[grid](cells, begins, mixed, lists, total, BLOCK_P=block)
        features_kernel[plan.features_grid](
            *(raw, scope, weights, lists, begins, y, grad_x, *plan.sizes, factor),
            *(plan.strides, plan.x_strides, _map_strides(y)),
            **options,
            **plan.tile,
        )
    return grad_x
