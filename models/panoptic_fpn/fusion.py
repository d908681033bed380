"""Fuse instances and a semantic map into one panoptic segmentation.

Kirillov et al., CVPR 2019, section 4, in the form of mmdetection.
"""

from collections.abc import Iterable, Sequence

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
