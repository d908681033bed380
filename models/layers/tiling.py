"""Work on large maps some rows at a time, so that what lies between two maps never exists as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

_LARGE, _AT_ONCE = 1 << 24, 1 << 21  # numbers between two maps; few images reach the first


def by_rows(
    function: Callable[[Tensor], Tensor], x: Tensor, channels: int, margin: int = 0, total: Tensor | None = None
) -> Tensor:
    """`function` of a map [B, H, W, C], some rows at a time where it is large and no gradient is asked for.

    function: makes of every row one of [B, W, D], from rows at most `margin` away. channels: as many numbers as it
    holds of each pixel meanwhile. total: a map [B, H, W, D] to which the result is added, in place.
    """
    height, width = x.shape[1:3]
    # Compiling and exporting would fix the size; they plan memory by themselves.
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or height * width * channels <= _LARGE:
        result = function(x)
        return result if total is None else total.add_(result)
    rows = max(1, _AT_ONCE // (width * channels))
    for top in range(0, height, rows):
        first = max(top - margin, 0)
        part = function(x[:, first : top + rows + margin])[:, top - first :][:, :rows]
        if total is None:
            total = part.new_zeros(len(part), height, width, part.shape[3])
        total[:, top : top + rows] += part
    assert total is not None
    return total
