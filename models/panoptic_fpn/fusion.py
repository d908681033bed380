"""Instances and a semantic map into one partition of the image. Kirillov et al., CVPR 2019, section 4; mmdetection."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor

from config import Fraction, Schema
from models.rcnn.mask_head import Pasted
from structures import Panoptic

VOID = 0


class FusionConfig(Schema):
    """max_overlap: an instance of which better ones cover more than this share is left out.

    min_stuff_area: pixels of a stuff class in the image, below which they become void.
    Which instances there are is up to box_head.min_score, nms_iou, class_agnostic_nms and detections.
    """

    max_overlap: Fraction = 0.5
    min_stuff_area: NonNegativeInt = 4096


def fuse(
    instances: Iterable[tuple[int, Pasted]], semantic: Tensor, stuff: Sequence[int], config: FusionConfig
) -> Panoptic:
    """The partition of an image into segments, ids from 1, instances first.

    instances: label and mask of each, by falling score. semantic: [H, W], classes of the semantic head: the
    stuff, whose labels are given, and one more, which becomes void where there is no instance.
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
