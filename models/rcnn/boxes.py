"""Boxes: anchors, encoding and decoding of deltas, NMS, and the assignment of boxes to objects.

Boxes are xyxy in pixels of the network input. The operators of torchvision are imported when they are first called:
importing torchvision takes as long as importing PyTorch, and a command that uses no detector need not wait for it.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from config import Schema
from structures import Size, Target

LARGEST_LOG_RATIO = math.log(1000 / 16)  # of the sides, between a decoded box and the box that it comes from
NEGATIVE, IGNORED = -1, -2  # assigned to a box instead of the index of an object
_OBJECTS_PER_CHUNK = 32  # objects that are compared with all boxes at a time, to limit memory


class AnchorConfig(Schema):
    """Anchors of one size per level. scale: side of a square anchor divided by the level's stride.

    ratios: height / width; all have the same area. rounded: round to whole pixels, as torchvision does; mmdetection
    does not.
    """

    scale: PositiveFloat = 8
    ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    rounded: bool = False


def anchors_of_level(config: AnchorConfig, size: Size, stride: int, device: torch.device) -> Tensor:
    """The anchors of a level of `size` (H, W): [H * W * A, 4], ordered by row, column and ratio.

    Anchors are centred on the top-left corners of cells, (column, row) * stride.
    """
    side, roots = config.scale * stride, torch.tensor(config.ratios).sqrt()
    half = torch.stack([side / roots, side * roots], dim=1) / 2
    base = torch.cat([-half, half], dim=1)
    if config.rounded:
        base = base.round()
    rows, columns = (torch.arange(length, device=device) * stride for length in size)
    corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).repeat(1, 1, 2)
    return (corners[:, :, None] + base.to(device, non_blocking=True)).reshape(-1, 4)


def encode(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Deltas [N, 4] (dx, dy, dw, dh) that move boxes [N, 4] onto targets [N, 4], divided by `stds`."""
    centres, sizes = _centres_and_sizes(boxes)
    target_centres, target_sizes = _centres_and_sizes(targets)
    deltas = torch.cat([(target_centres - centres) / sizes, (target_sizes / sizes).log()], dim=1)
    return deltas / _like(deltas, stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float], size: Size | Tensor) -> Tensor:
    """Move boxes [..., 4] by deltas [..., 4], and clip them to an image of `size` (height, width)."""
    centres, sizes = _centres_and_sizes(boxes)
    shift, log_ratio = (deltas * _like(deltas, stds)).split(2, dim=-1)
    centres = centres + shift * sizes
    half = sizes * log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp() / 2
    moved = torch.cat([centres - half, centres + half], dim=-1)
    moved = moved.clamp(min=0)
    columns, rows = moved[..., 0::2].clamp(max=size[1]), moved[..., 1::2].clamp(max=size[0])
    return torch.stack([columns, rows], dim=-1).flatten(-2)


def _like(tensor: Tensor, values: Sequence[float]) -> Tensor:
    """The values on the device and in the dtype of a tensor; `new_tensor` would wait for the device."""
    return torch.tensor(values, dtype=tensor.dtype).to(tensor.device, non_blocking=True)


def area(boxes: Tensor) -> Tensor:
    """The areas of boxes, [N, 4] -> [N]. Negative sides count as 0."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """For each box, the largest share of its area that a single region covers. [N, 4], [M, 4] -> [N]; M > 0."""
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2).amax(dim=1)
    return inside / area(boxes).clamp(min=1e-6)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, [..., 2] each, as (x, y) and (width, height)."""
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression of boxes [N, 4], scores [N], within groups [N] -> indices of kept boxes, best first.

    Coordinates must not be negative. In an exported graph groups are kept apart by moving each of them away from the
    others, which rounds coordinates: IoUs there differ by up to about 1e-3 for the smallest boxes.
    """
    from torchvision.ops import batched_nms, nms

    if torch.compiler.is_exporting():
        largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).amax(dim=0)  # there may be no box
        apart: Tensor = nms(boxes + (groups.to(boxes.dtype) * (largest + 1))[:, None], scores, iou)
        return apart
    kept: Tensor = batched_nms(boxes, scores, groups, iou)
    return kept


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and [M, 4] -> [N, M]."""
    from torchvision.ops import box_iou

    iou: Tensor = box_iou(boxes, others)
    return iou


# --- matching -------------------------------------------------------------------------------------------------------

# The rules are those of mmdetection's MaxIoUAssigner and RandomSampler, with one difference, which can be switched off
# (crowd_share): boxes in crowd regions are ignored instead of being background.


def objects_and_crowds(target: Target) -> tuple[Tensor, Tensor]:
    """The indices of the target's objects that are not crowds, and the boxes [M, 4] of its crowd regions."""
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
    """Assign each box [N, 4] to an object [G, 4]: the object's index, or NEGATIVE (background), or IGNORED. [N] int64.

    A box is assigned to the object with the highest IoU if that IoU is at least `positive`. It is background if the IoU
    is below `negative`, and ignored in between. best_match: in addition, each object gets the boxes that have the
    highest IoU with it, if that is at least `best_match`; a box that several objects get in this way goes to the last
    one. None: off. crowd_share: background boxes are ignored if a single crowd region [M, 4] covers at least this share
    of their area. None: off.
    """
    matched = index = last = torch.full((len(boxes),), NEGATIVE, device=boxes.device)
    best = torch.full((len(boxes),), -1.0, device=boxes.device)
    for start in range(0, len(objects) if len(boxes) else 0, _OBJECTS_PER_CHUNK):
        iou = box_iou(objects[start : start + _OBJECTS_PER_CHUNK], boxes)
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


def sample_boxes(matched: Tensor, count: int, positive_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose at most `count` boxes at random, given `seed`. Returns the indices of positives and of negatives.

    matched: the result of `assign`. At most the share `positive_share` of `count` is positive.
    """
    generator = torch.Generator(matched.device).manual_seed(seed)
    positives = _choose_randomly(torch.nonzero(matched >= 0).flatten(), int(count * positive_share), generator)
    negatives = _choose_randomly(torch.nonzero(matched == NEGATIVE).flatten(), count - len(positives), generator)
    return positives, negatives


def _choose_randomly(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), generator=generator, device=indices.device)[:count]]
