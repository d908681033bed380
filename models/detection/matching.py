"""Which box learns from which object: assignment by overlap, and a random choice of limited size.

The rules are mmdetection's MaxIoUAssigner and RandomSampler, with one departure that has a switch: boxes that lie in
crowd regions are left out instead of being background.
"""

import torch
from torch import Tensor

from models.detection.boxes import covered_share
from models.detection.operators import box_iou
from structures import Target

NEGATIVE, IGNORED = -1, -2  # what is assigned to a box besides the index of an object
_AT_ONCE = 32  # objects compared with all boxes at a time, which bounds the memory


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
