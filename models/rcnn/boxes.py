"""Boxes: anchors, the deltas that move one box onto another, and which box learns from which object.

Boxes are xyxy in pixels of the input. torchvision's operators are imported when they are first called: importing
torchvision takes as long as importing PyTorch, and a command that trains no detector need not wait for it.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from config import Schema
from structures import Size, Target

Four = tuple[float, float, float, float]
LARGEST_LOG_RATIO = math.log(1000 / 16)  # a box becomes at most this much larger or smaller, in logarithms
NEGATIVE, IGNORED = -1, -2  # what is assigned to a box besides the index of an object
_AT_ONCE = 32  # objects compared with all boxes at a time, which bounds the memory


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


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression of boxes [N, 4] by scores [N] within groups [N]: indices of those kept, best first."""
    from torchvision.ops import batched_nms

    kept: Tensor = batched_nms(boxes, scores, groups, iou)
    return kept


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and [M, 4] -> [N, M]."""
    from torchvision.ops import box_iou

    iou: Tensor = box_iou(boxes, others)
    return iou


# --- matching -------------------------------------------------------------------------------------------------------

# The rules are mmdetection's MaxIoUAssigner and RandomSampler, with one departure that has a switch: boxes that lie in
# crowd regions are left out instead of being background.


def objects_and_crowds(target: Target) -> tuple[Tensor, Tensor]:
    """Indices of the target's single objects, and boxes [M, 4] of its crowd regions."""
    instances = target.instances
    assert instances is not None
    crowd = instances.crowd
    if crowd is None:
        crowd = torch.zeros(len(instances.labels), dtype=torch.bool, device=instances.boxes.device)
    return torch.nonzero(~crowd).flatten(), instances.boxes[crowd]


def assign(
    boxes: Tensor,
    objects: Tensor,
    crowds: Tensor,
    *,
    positive: float,
    negative: float,
    best_match: float | None,
    crowd_share: float | None,
) -> Tensor:
    """For each box [N, 4] the index of its object [G, 4], or NEGATIVE, or IGNORED. [N] int64.

    A box belongs to the object that it overlaps most if their IoU is `positive` or more; it is background below
    `negative`, and ignored in between. best_match: further, the boxes that overlap an object more than all others do
    belong to that object, provided their IoU is at least this; of several such objects the last one counts.
    crowd_share: background boxes of which a crowd region [M, 4] covers this share are ignored; None: they are not.
    """
    matched = index = last = torch.full((len(boxes),), NEGATIVE, device=boxes.device)
    best = torch.full((len(boxes),), -1.0, device=boxes.device)
    for start in range(0, len(objects) if len(boxes) else 0, _AT_ONCE):
        iou = box_iou(objects[start : start + _AT_ONCE], boxes)
        highest, row = iou.max(dim=0)
        index = torch.where(highest > best, row + start, index)
        best = torch.maximum(best, highest)
        if best_match is not None:
            highest = iou.amax(dim=1, keepdim=True)
            rows, columns = torch.nonzero((iou == highest) & (highest >= best_match), as_tuple=True)
            last = last.scatter_reduce(0, columns, rows + start, "amax")
    matched = matched.masked_fill(best >= negative, IGNORED)
    matched = torch.where(best >= positive, index, matched)
    matched = torch.where(last >= 0, last, matched)
    if crowd_share is not None and len(crowds):
        covered = covered_share(boxes, crowds) >= crowd_share
        matched = matched.masked_fill(covered & (matched == NEGATIVE), IGNORED)
    return matched


def sample(matched: Tensor, count: int, positive_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` boxes, drawn from `seed`: positives, at most this share of `count`, and negatives."""
    generator = torch.Generator(matched.device).manual_seed(seed)
    positives = _some(torch.nonzero(matched >= 0).flatten(), int(count * positive_share), generator)
    negatives = _some(torch.nonzero(matched == NEGATIVE).flatten(), count - len(positives), generator)
    return positives, negatives


def _some(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), generator=generator, device=indices.device)[:count]]
