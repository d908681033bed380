"""Weighted point sampling: read maps bilinearly at any positions, and sum or compare what is read there.

Two functions serve all upsamplers that read points, and deformable attention. `sample_points` sums the values at n
positions per output pixel. `score_points` compares a query with the keys there. What is read at n positions would need
n times the memory of the result. So it is read in chunks, and once more for the gradient: autograd keeps only the
arguments. Where there are kernels they do the same in one pass: operators.py.

Positions are (column, row) in pixels of the map that is read; the centre of its first pixel is at (1/2, 1/2). They are
float32 or wider whatever autocast says: in bfloat16 neighbouring pixels could not be told apart from column 128 on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from upsamplers import operators
from upsamplers.base import Padding, at_least_float32
from upsamplers.sampling import finite_grid, grid_unit, has_kernels, read_points

# Elements read at a time. On a CPU they should fit into the cache; an accelerator needs large kernels.
_CHUNK_ELEMENTS_ON_CPU, _CHUNK_ELEMENTS_ON_ACCELERATOR = 1 << 20, 1 << 24


def sample_points(x: Tensor, positions: Tensor, weights: Tensor | None, padding: Padding) -> Tensor:
    """For each output pixel, the weighted sum of x at its n positions. x [B, C, H, W] -> [B, C, h, w].

    positions [B, g, n, h, w, 2]: the C channels form g contiguous groups, each with its own positions; see the module.
    weights [B, g, n, h, w], or [B, 1, n, h, w] for all groups alike, or None for n = 1 with weight 1.
    padding: what is read outside the map: zeros, or "border": positions are clamped to the outermost pixel centres.
    The result has the dtype of x; the sum is in float32 or wider. It is NaN where a position is NaN or infinite.
    """
    if has_kernels(x, positions, weights):
        weights = None if weights is None else weights.float().expand(positions.shape[:-1])
        return operators.apply("sum_points", x, positions.float(), weights, padding == "border")
    return plain_sample_points(x, positions, weights, padding)


def plain_sample_points(
    x: Tensor, positions: Tensor, weights: Tensor | None, padding: Padding, in_chunks: bool = True
) -> Tensor:
    """`sample_points` in PyTorch's operators. in_chunks: or all at once, which torch.func can transform, too."""
    B, C = x.shape[:2]
    g, n, h, w = positions.shape[1:5]
    maps = at_least_float32(x).reshape(B * g, C // g, *x.shape[2:])
    weights = maps.new_ones(()) if weights is None else at_least_float32(weights)
    weights = weights.expand(B, g, n, h, w).reshape(B * g, n, h * w)
    output = _run(_WeightedSum, _sum, maps, _grid(positions, x), weights, padding, in_chunks)
    return output.reshape(B, C, h, w).to(x.dtype)


def score_points(query: Tensor, key: Tensor, positions: Tensor, padding: Padding) -> Tensor:
    """Inner products of each query with the keys at its n positions, for each of g groups of channels.

    query [B, D, h, w], key [B, D, H, W], positions [B, g, n, h, w, 2] -> [B, g, n, h, w], in float32 or wider.
    Groups, positions and NaN are those of `sample_points`.
    """
    if has_kernels(key, positions, query):
        return operators.apply("score_points", query, key, positions.float(), padding == "border")
    return plain_score_points(query, key, positions, padding)


def plain_score_points(
    query: Tensor, key: Tensor, positions: Tensor, padding: Padding, in_chunks: bool = True
) -> Tensor:
    """`score_points` in PyTorch's operators. in_chunks: see `plain_sample_points`."""
    B, D = key.shape[:2]
    g, n, h, w = positions.shape[1:5]
    maps = at_least_float32(key).reshape(B * g, D // g, *key.shape[2:])
    query = at_least_float32(query).reshape(B * g, D // g, h * w)
    scores = _run(_Scores, _score, maps, _grid(positions, key), query, padding, in_chunks)
    return scores.reshape(B, g, n, h, w)


def _grid(positions: Tensor, x: Tensor) -> Tensor:
    """Positions [B, g, n, h, w, 2] in pixels of x -> [B·g, n, h·w, 2] in grid units."""
    positions = at_least_float32(positions)
    return (positions * grid_unit(x, positions) - 1).flatten(3, 4).flatten(0, 1)


# --- one chunk: maps [M, D, H, W], grid [M, n, N, 2], weights [M, n, N], query [M, D, N] -----------------------------


def _sum(maps: Tensor, grid: Tensor, weights: Tensor, padding: Padding) -> Tensor:
    """-> [M, D, N]."""
    total = (read_points(maps, grid, padding) * weights[:, None]).sum(2)
    return total + (grid.detach() * 0).sum((1, 3))[:, None]  # NaN where a position is not finite, else 0


def _score(maps: Tensor, grid: Tensor, query: Tensor, padding: Padding) -> Tensor:
    """-> [M, n, N]."""
    scores = (read_points(maps, grid, padding) * query[:, :, None]).sum(1)
    return scores + (grid.detach() * 0).sum(3)


def _scatter(maps: Tensor, grid: Tensor, weights: Tensor, query: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    """The gradients with respect to maps and grid of sum(query · _sum(maps, grid, weights))."""
    gradient = query[:, :, None] * weights[:, None]
    if torch.are_deterministic_algorithms_enabled():  # on CUDA the operator below is not deterministic
        with torch.enable_grad():
            leaves = maps.detach().requires_grad_(), grid.detach().requires_grad_()
            grad_maps, grad_grid = torch.autograd.grad(read_points(*leaves, padding), leaves, gradient)
    else:
        mode = ("zeros", "border").index(padding)
        grad_maps, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            gradient, maps, finite_grid(grid), 0, mode, False, [True, True]
        )
    return grad_maps, grad_grid + grid * 0


# --- all chunks, and their gradients ---------------------------------------------------------------------------------


def _run(
    function: type[torch.autograd.Function],
    chunk: Callable[..., Tensor],
    maps: Tensor,
    grid: Tensor,
    factor: Tensor,
    padding: Padding,
    in_chunks: bool,
) -> Tensor:
    # A graph must not depend on the number of chunks. What it keeps is for the compiler to decide.
    if not in_chunks or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return chunk(maps, grid, factor, padding)
    output: Tensor = function.apply(maps, grid, factor, padding)
    return output


class _WeightedSum(torch.autograd.Function):
    """`_sum` in chunks, keeping only its arguments."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, grid: Tensor, weights: Tensor, padding: Padding) -> Tensor:
        ctx.save_for_backward(maps, grid, weights)
        ctx.padding = padding
        return _in_chunks(_sum, maps, (grid, weights), padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, grid, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        grad_weights = _in_chunks(_score, maps, (grid, gradient), ctx.padding) if ctx.needs_input_grad[2] else None
        return *_scatter_in_chunks(maps, grid, weights, gradient, ctx.padding), grad_weights, None


class _Scores(torch.autograd.Function):
    """`_score` in chunks, keeping only its arguments."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, grid: Tensor, query: Tensor, padding: Padding) -> Tensor:
        ctx.save_for_backward(maps, grid, query)
        ctx.padding = padding
        return _in_chunks(_score, maps, (grid, query), padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, grid, query = ctx.saved_tensors
        gradient = gradient.contiguous()
        grad_query = _in_chunks(_sum, maps, (grid, gradient), ctx.padding) if ctx.needs_input_grad[2] else None
        return *_scatter_in_chunks(maps, grid, gradient, query, ctx.padding), grad_query, None


def _in_chunks(function: Callable[..., Tensor], maps: Tensor, factors: Sequence[Tensor], padding: Padding) -> Tensor:
    """Run a function of one chunk on all of them."""
    planes = []
    for rows in _plane_chunks(maps, factors[0]):
        columns = [
            function(maps[rows], *(factor[rows, :, cut] for factor in factors), padding)
            for cut in _query_chunks(maps, factors[0], at_least=1)
        ]
        planes.append(torch.cat(columns, dim=2))
    return torch.cat(planes)


def _scatter_in_chunks(
    maps: Tensor, grid: Tensor, weights: Tensor, query: Tensor, padding: Padding
) -> tuple[Tensor, Tensor]:
    grad_maps, grad_grid = torch.zeros_like(maps), torch.empty_like(grid)
    for rows in _plane_chunks(maps, grid):
        for cut in _query_chunks(maps, grid, at_least=maps.shape[2] * maps.shape[3]):  # each chunk fills whole maps
            factors = grid[rows, :, cut], weights[rows, :, cut], query[rows, :, cut]
            part, grad_grid[rows, :, cut] = _scatter(maps[rows], *factors, padding)
            grad_maps[rows] += part
    return grad_maps, grad_grid


def _chunk_elements(maps: Tensor) -> int:
    return _CHUNK_ELEMENTS_ON_CPU if maps.is_cpu else _CHUNK_ELEMENTS_ON_ACCELERATOR


def _plane_chunks(maps: Tensor, grid: Tensor) -> list[slice]:
    """Which of the M maps to read together."""
    size = max(1, _chunk_elements(maps) // max(1, maps.shape[1] * grid.shape[1] * grid.shape[2]))
    return _slices(maps.shape[0], size)


def _query_chunks(maps: Tensor, grid: Tensor, at_least: int) -> list[slice]:
    """Which of the N output pixels to read together."""
    return _slices(grid.shape[2], max(at_least, _chunk_elements(maps) // max(1, maps.shape[1] * grid.shape[1])))


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, max(length, 1), size)]
