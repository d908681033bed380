"""Combine masks with classes into a panoptic segmentation, so that each pixel has one segment at most.

Cheng et al., NeurIPS 2021, section 3.4, and their released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Fraction, Schema
from models.layers.resize import resized_to_original
from structures import Panoptic, Size


class PartitionConfig(Schema):
    """Which masks become segments. Defaults: those of the released code.

    min_score: a mask is kept if the probability of its class is higher. min_visible: a mask is dropped if the pixels
    that it wins are less than this share of its own area (probability >= 0.5).
    """

    min_score: Fraction = 0.8
    min_visible: Fraction = 0.8


def partition(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: Size,
    unpadded: Size,
    size: Size,
    things: Tensor,
    config: PartitionConfig,
) -> Panoptic:
    """The panoptic segmentation of one image at its original `size`. Segment ids count from 1.

    class_logits: [Q, K + 1]; the last class is "no object". mask_logits: [Q, h, w]. things: [K] bool. Mask logits are
    resized bilinearly to the `padded` size of the network input, cropped to the `unpadded` size (without padding), and
    resized to `size`, one at a time. Each pixel belongs to the mask with the highest product of class probability and
    mask probability. It becomes void if that mask is dropped because too little of it is visible (min_visible). All
    masks of the same stuff class form one segment.
    """
    scores, labels, kept = _confident(class_logits, things, config)
    best = scores.new_zeros(size)
    owner = torch.zeros(size, dtype=torch.int32, device=mask_logits.device)  # 1 + index in `kept`; 0: none
    areas = [0]
    for number, query in enumerate(kept.tolist(), 1):
        mask = resized_to_original(mask_logits[None, None, query], padded, unpadded, size)[0, 0]
        areas.append(int((mask >= 0).sum()))
        product = scores[query] * mask.sigmoid()
        owner.masked_fill_(product > best, number)
        torch.maximum(best, product, out=best)
    visible_areas = owner.flatten().bincount(minlength=len(kept) + 1)
    found = F.pad(labels[kept], (1, 0))
    ids, segment_labels = _number(found, things, torch.tensor(areas, device=owner.device), visible_areas, config)
    return Panoptic(ids[owner.long()], dict(enumerate(segment_labels.tolist(), 1)))


def partition_tensors(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: Size,
    unpadded: Size,
    size: Size,
    things: Tensor,
    config: PartitionConfig,
) -> tuple[Tensor, Tensor]:
    """`partition` in tensors, all masks at once: ids [H, W] int32, and the label of each segment, [S] int64."""
    scores, labels, kept = _confident(class_logits, things, config)
    found, scores = F.pad(labels[kept], (1, 0)), F.pad(scores[kept], (1, 0))  # the first one stands for no mask
    masks = torch.cat([torch.full_like(mask_logits[:1], -1), mask_logits[kept]])
    masks = resized_to_original(masks[None], padded, unpadded, size)[0]
    owner = (scores[:, None, None] * masks.sigmoid()).argmax(dim=0)
    areas = (masks >= 0).sum(dim=(1, 2))
    visible_areas = torch.zeros_like(areas).scatter_add(0, owner.flatten(), torch.ones_like(owner).flatten())
    ids, segment_labels = _number(found, things, areas, visible_areas, config)
    return ids[owner], segment_labels


def _confident(class_logits: Tensor, things: Tensor, config: PartitionConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The score and the label of each mask, [Q], and the indices of those whose score is high enough, [M]."""
    scores, labels = class_logits.float().softmax(dim=1).max(dim=1)
    return scores, labels, ((labels < len(things)) & (scores > config.min_score)).nonzero()[:, 0]


def _number(
    labels: Tensor, things: Tensor, areas: Tensor, visible_areas: Tensor, config: PartitionConfig
) -> tuple[Tensor, Tensor]:
    """The segment id of each mask, [M] int32, 0: dropped; and the label of each segment, [S].

    labels, areas, visible_areas: [M] int64 of the masks. A mask without area gets no segment.
    """
    visible = (visible_areas > 0) & (areas > 0) & (visible_areas >= config.min_visible * areas.double())
    places = torch.arange(labels.shape[0], device=labels.device)
    same_stuff = (labels[:, None] == labels) & ~things[labels] & visible
    first = torch.where(same_stuff.any(dim=1), same_stuff.int().argmax(dim=1), places)
    begins = visible & (first == places)
    return torch.where(visible, begins.cumsum(0)[first], 0).int(), labels[begins]
