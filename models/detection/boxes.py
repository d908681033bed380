"""Boxes as numbers: anchors, and the deltas that move a box onto another. Boxes are xyxy in pixels of the input."""

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from config import Schema
from structures import Size

Four = tuple[float, float, float, float]
LARGEST_LOG_RATIO = math.log(1000 / 16)  # a box becomes at most this much larger or smaller, in logarithms


class AnchorConfig(Schema):
    """Anchors of one size a level. scale: their side over the level's stride. ratios: height over width, at equal area.

    rounded: to whole pixels, as torchvision has them; the recipe does not round.
    """

    scale: PositiveFloat = 8
    ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False


def anchors_of_level(config: AnchorConfig, size: Size, stride: int, device: torch.device) -> Tensor:
    """[H * W * A, 4], by row, column and ratio. Anchors are centred on the corners (column, row) * stride of cells."""
    side, roots = config.scale * stride, torch.tensor(config.ratios).sqrt()
    half = torch.stack([side / roots, side * roots], dim=1) / 2
    base = torch.cat([-half, half], dim=1)
    if config.rounded:
        base = base.round()
    rows, columns = (torch.arange(length, device=device) * stride for length in size)
    corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).repeat(1, 1, 2)
    return (corners[:, :, None] + base.to(device)).reshape(-1, 4)


def encode(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Deltas [N, 4] (dx, dy, dw, dh) that move boxes [N, 4] onto targets [N, 4], divided by `stds`."""
    centres, sizes = _centres(boxes)
    target_centres, target_sizes = _centres(targets)
    deltas = torch.cat([(target_centres - centres) / sizes, (target_sizes / sizes).log()], dim=1)
    return deltas / deltas.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float], size: Size) -> Tensor:
    """Boxes [..., 4] moved by deltas [..., 4] and cut to an image of `size` (height, width)."""
    centres, sizes = _centres(boxes)
    shift, log_ratio = (deltas * deltas.new_tensor(stds)).split(2, dim=-1)
    centres = centres + shift * sizes
    half = sizes * log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp() / 2
    moved = torch.cat([centres - half, centres + half], dim=-1)
    limits = moved.new_tensor([size[1], size[0]] * 2)
    return torch.minimum(moved.clamp(min=0), limits)


def area(boxes: Tensor) -> Tensor:
    """[N, 4] -> [N]; negative sides count as none."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """The largest share of each box's own area that a single region covers. [N, 4], [M, 4] -> [N]; M > 0."""
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2).amax(dim=1)
    return inside / area(boxes).clamp(min=1e-6)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, [..., 2] each, as (x, y) and (width, height)."""
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low
