"""Fuse instances and a semantic map into one panoptic segmentation.

Kirillov et al., CVPR 2019, section 4, in the form of mmdetection.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor

from config import Fraction, Schema
from models.rcnn.mask_head import PastedMask
from structures import Panoptic

VOID = 0


class FusionConfig(Schema):
    """Options of the fusion. The instances depend on min_score, nms_iou, class_agnostic_nms and detections of box_head.

    max_overlap: an instance is dropped if better ones cover more than this share of it.
    min_stuff_area: a stuff class with a smaller area in the image, in pixels, becomes void.
    """

    max_overlap: Fraction = 0.5
    min_stuff_area: NonNegativeInt = 4096


def fuse(
    instances: Iterable[tuple[int, PastedMask]], semantic: Tensor, stuff: Sequence[int], config: FusionConfig
) -> Panoptic:
    """The panoptic segmentation of an image. Segment ids count from 1, instances first.

    instances: label and mask of each, by decreasing score. semantic: [H, W], class indices of the semantic head: index
    i is the stuff class with label stuff[i]; the last index, for things, becomes void where there is no instance.
    """
    ids = np.zeros(tuple(semantic.shape), np.int32)
    labels: dict[int, int] = {}
    for label, (window, mask) in instances:
        area, free = np.count_nonzero(mask), mask & (ids[window] == VOID)
        if area - np.count_nonzero(free) > config.max_overlap * area or not free.any():
            continue
        labels[len(labels) + 1] = label
        ids[window][free] = len(labels)
    classes = np.where(ids == VOID, semantic.cpu().numpy(), -1)
    for stuff_class, label in enumerate(stuff):
        mask = classes == stuff_class
        if np.count_nonzero(mask) >= max(config.min_stuff_area, 1):
            labels[len(labels) + 1] = label
            ids[mask] = len(labels)
    return Panoptic(torch.from_numpy(ids), labels)


def fuse_tensors(
    labels: Tensor, masks: Tensor, semantic: Tensor, stuff: Sequence[int], config: FusionConfig
) -> tuple[Tensor, Tensor]:
    """`fuse` in tensors: ids [H, W] int32, and the label of each segment, [S] int64.

    labels: [N] int64, of the instances by decreasing score. masks: [N, H, W] bool. semantic: [H, W] int32. Whether an
    instance is kept depends on those before it, so an exported graph has a loop over them.
    """

    def place(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        free = mask & (ids == VOID)
        area, free_area = mask.sum(), free.sum()
        kept = (area - free_area <= config.max_overlap * area.double()) & (free_area > 0)
        return torch.where(free & kept, ids.max() + 1, ids), kept

    nothing = torch.zeros_like(semantic)
    ids, kept = _loop(place, nothing, torch.cat([nothing[None].bool(), masks]))  # so that there is at least one mask
    areas = torch.zeros(len(stuff) + 1, dtype=torch.int32, device=ids.device)
    areas = areas.scatter_add(0, semantic.flatten().long(), (ids == VOID).flatten().int())[:-1]
    large = areas >= max(config.min_stuff_area, 1)
    numbers = torch.where(large, ids.max() + large.cumsum(0), VOID).int()
    numbers = torch.cat([numbers, numbers.new_full((1,), VOID)])  # the last class is that of things
    stuff_labels = torch.tensor(stuff, device=ids.device)[large]
    return torch.where(ids == VOID, numbers[semantic.long()], ids), torch.cat([labels[kept[1:]], stuff_labels])


def _loop(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], state: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply `step` to the state and each item in turn: the last state, and the stacked second results."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan

        last, results = scan(step, state, items)
        return last, results
    flags = []
    for item in items:
        state, flag = step(state, item)
        flags.append(flag)
    return state, torch.stack(flags)
