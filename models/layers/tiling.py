"""Apply a function to a large map a few rows at a time, so that its intermediate results never exist as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

_UNTILED_ELEMENTS = 1 << 24  # largest intermediate result of a map that is not split; few images exceed it
_TILE_ELEMENTS = 1 << 21  # elements of the intermediate result in each tile


def apply_by_rows(
    function: Callable[[Tensor], Tensor], x: Tensor, channels: int, margin: int = 0, total: Tensor | None = None
) -> Tensor:
    """Apply `function` to x [B, H, W, C] and return the result [B, H, W, D].

    Large maps are processed in tiles of a few rows, unless gradients are enabled.
    function: [B, h, W, C] -> [B, h, W, D] for any number of rows h; each output row must depend only on input rows at
    most `margin` away. channels: how many elements per pixel its intermediate result has. total: if given, a map
    [B, H, W, D] to which the result is added in place, and which is returned.
    """
    height, width = x.shape[1:3]
    # Compiling would make the tile size a constant of the graph, and the compiler plans memory by itself.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or height * width * channels <= _UNTILED_ELEMENTS:
        result = function(x)
        return result if total is None else total.add_(result)
    rows = max(1, _TILE_ELEMENTS // (width * channels))
    for top in range(0, height, rows):
        first = max(top - margin, 0)
        tile = function(x[:, first : top + rows + margin])[:, top - first :][:, :rows]
        if total is None:
            total = tile.new_zeros(tile.shape[0], height, width, tile.shape[3])
        total[:, top : top + rows] += tile
    assert total is not None
    return total
