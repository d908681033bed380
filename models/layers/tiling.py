"""Apply a function to a large map a few rows at a time, so that its intermediate results never exist as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

# Elements of the intermediate result: up to the first a map is not split (few images exceed it); in each tile.
_UNTILED_ELEMENTS, _TILE_ELEMENTS = 1 << 24, 1 << 21


def apply_by_rows(
    function: Callable[[Tensor], Tensor], x: Tensor, channels: int, margin: int = 0, total: Tensor | None = None
) -> Tensor:
    """Apply `function` to x [B, H, W, C] and return the result [B, H, W, D].

    Large maps are processed a few rows at a time, unless gradients are enabled.
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
        part = function(x[:, first : top + rows + margin])[:, top - first :][:, :rows]
        if total is None:
            total = part.new_zeros(len(part), height, width, part.shape[3])
        total[:, top : top + rows] += part
    assert total is not None
    return total
