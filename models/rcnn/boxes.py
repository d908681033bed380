"""Boxes: anchors, encoding and decoding of deltas, NMS, the assignment of boxes to objects, and RoIAlign on the CPU.

Boxes are xyxy in pixels of the network input. The operators of torchvision are imported when they are first called:
importing torchvision takes as long as importing PyTorch, and a command that uses no detector need not wait for it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from config import Schema
from structures import Size, Target

LARGEST_LOG_RATIO = math.log(1000 / 16)  # of the sides, between a decoded box and the box that it comes from
NEGATIVE, IGNORED = -1, -2  # assigned to a box instead of the index of an object
MOST_CELLS = 1 << 26  # that RoIAlign reads, about 1 GB of indices and weights; training reads a million
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
    if crowd is None:  # to look for them would be to wait for the device
        return torch.arange(len(instances.labels), device=instances.boxes.device), instances.boxes[:0]
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
            numbers = torch.arange(start, start + len(iou), device=iou.device)[:, None]
            is_best = (iou == highest) & (highest >= best_match)
            last = torch.maximum(last, torch.where(is_best, numbers, NEGATIVE).amax(dim=0))
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


# --- RoIAlign (He et al., "Mask R-CNN", ICCV 2017) ------------------------------------------------------------------

# A bin of a region is a weighted sum of cells of one feature map, with the same weights for all channels. With channels
# last, a cell is one row of a matrix, and `embedding_bag` sums rows with vector instructions and all threads, while
# torchvision's operator reads one number at a time with one thread. The gradient is a sum of rows, too.


def roi_align_levels(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    size: int,
    strides: Sequence[int],
    sampling: int,
    aligned: bool,
) -> Tensor | None:
    """Pool each box [R, 4] of image images[r] from the level levels[r] of maps [B, C, H, W] -> [R, C, size, size].

    boxes: in pixels of the image, which are `strides` per cell. images, levels: [R] int64. sampling: samples per bin
    and axis; 0: one per cell. aligned: cell centres are at +1/2. None if the regions are so large that indices would
    need too much memory.
    """
    heights, widths = (torch.tensor([level.shape[axis] for level in pyramid]) for axis in (2, 3))
    starts = F.pad((heights * widths * pyramid[0].shape[0]).cumsum(0), (1, 0))[:-1]
    corners = boxes / torch.tensor(strides)[levels, None] - (0.5 if aligned else 0)
    sides = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    height, width = heights[levels], widths[levels]
    top, rows, row_weights = _cells_of_bins(corners[:, 1], sides[:, 1], height, size, sampling)
    left, columns, column_weights = _cells_of_bins(corners[:, 0], sides[:, 0], width, size, sampling)

    cells = (rows[:, :, None] * columns[:, None, :]).flatten()  # of each bin of each region
    ends = cells.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if total > MOST_CELLS:
        return None
    bins = torch.repeat_interleave(cells, output_size=total)
    region, inside = bins // size**2, bins % size**2
    across = region * size + inside % size
    down = region * size + inside // size
    number = torch.arange(total) - (ends - cells)[bins]
    row, column = number // columns.flatten()[across], number % columns.flatten()[across]
    first = (starts[levels] + images * height * width)[region]
    index = first + (top.flatten()[down] + row) * width[region] + left.flatten()[across] + column
    weights = row_weights.flatten(0, 1)[down, row] * column_weights.flatten(0, 1)[across, column]

    values = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in pyramid])
    summed: Tensor = _SumOfRows.apply(values.float(), index, weights, F.pad(ends, (1, 0)), bins)
    return summed.to(values.dtype).view(len(boxes), size, size, values.shape[1]).permute(0, 3, 1, 2)


def _cells_of_bins(
    low: Tensor, side: Tensor, length: Tensor, size: int, sampling: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis, the cells that each bin reads: the first one and how many, [R, size], and weights [R, size, M].

    low, side: [R], of the regions, in cells. length: [R], of the map. M: the largest number of cells.
    """
    step = side / size
    count = torch.full_like(length, sampling) if sampling else step.ceil().clamp(min=0).long()
    sample = torch.arange(max(int(count.max()), 1) if len(count) else 1)
    part = (sample + 0.5) / count.clamp(min=1)[:, None]
    at = low[:, None, None] + (torch.arange(size)[:, None] + part[:, None]) * step[:, None, None]
    last = (length - 1)[:, None, None]
    is_read = (sample < count[:, None])[:, None] & (at >= -1) & (at <= length[:, None, None])  # not so for NaN
    at = torch.where(is_read, at.clamp(min=0), 0)
    before = torch.minimum(at.long(), last)
    after = torch.minimum(before + 1, last)
    share = torch.where(before == last, 0, at - before)

    first = torch.where(is_read, before, last).amin(dim=2, keepdim=True)
    cells = (torch.where(is_read, after, 0).amax(dim=2, keepdim=True) - first + 1).clamp(min=0)
    weights = at.new_zeros(len(low), size, max(int(cells.max()), 1) if len(cells) else 1)
    for cell, weight in ((before, 1 - share), (after, share)):
        weight = torch.where(is_read, weight / count.clamp(min=1)[:, None, None], 0)
        weights.scatter_add_(2, (cell - first).clamp(min=0), weight)
    return first.squeeze(2), cells.squeeze(2), weights


class _SumOfRows(torch.autograd.Function):
    """Weighted sums of rows of a matrix [N, C], for bags of rows given by index [I], weight [I] and ends of bags."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        values: Tensor,
        index: Tensor,
        weights: Tensor,
        ends: Tensor,
        bags: Tensor,
    ) -> Tensor:
        context.save_for_backward(index, weights, bags)
        context.rows = len(values)  # type: ignore[attr-defined]
        return _sum_of_rows(values, index, weights, ends)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        """The same sum with bags and rows exchanged."""
        index, weights, bags = context.saved_tensors  # type: ignore[attr-defined]
        order = index.argsort(stable=True)
        ends = F.pad(torch.bincount(index, minlength=context.rows).cumsum(0), (1, 0))  # type: ignore[attr-defined]
        return _sum_of_rows(gradient.contiguous(), bags[order], weights[order], ends), None, None, None, None


def _sum_of_rows(values: Tensor, index: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return F.embedding_bag(index, values, ends, mode="sum", per_sample_weights=weights, include_last_offset=True)
