"""Combine masks with classes into a panoptic segmentation, so that each pixel has one segment at most.

Cheng et al., NeurIPS 2021, section 3.4, and their released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Fraction, Schema
from models.layers.resize import resized_to_original
from structures import Size


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
) -> tuple[Tensor, Tensor]:
    """The panoptic segmentation of one image at its original `size`: ids [H, W] int32, and labels of segments, [S].

    Segment ids count from 1; 0: void.
    class_logits: [Q, K + 1]; the last class is "no object". mask_logits: [Q, h, w]. things: [K] bool. Mask logits are
    resized bilinearly to the `padded` size of the network input, cropped to the `unpadded` size (without padding), and
    resized to `size`, one at a time; in an exported graph at once. Each pixel belongs to the mask with the highest
    product of class probability and mask probability. It becomes void if that mask is dropped because too little of it
    is visible (min_visible). All masks of the same stuff class form one segment.
    """
    scores, labels = class_logits.float().softmax(dim=1).max(dim=1)
    kept = ((labels < len(things)) & (scores > config.min_score)).nonzero()[:, 0]
    find = _owners_at_once if torch.compiler.is_exporting() else _owners
    owner, areas = find(scores[kept], mask_logits[kept], padded, unpadded, size)
    visible_areas = torch.zeros_like(areas).scatter_add(0, owner.flatten(), torch.ones_like(owner).flatten())
    found = F.pad(labels[kept], (1, 0))  # the first one stands for no mask
    ids, segment_labels = _number(found, things, areas, visible_areas, config)
    return ids[owner], segment_labels


def _owners(scores: Tensor, mask_logits: Tensor, padded: Size, unpadded: Size, size: Size) -> tuple[Tensor, Tensor]:
    """The mask that each pixel belongs to, [H, W] int64, from 1, 0: none; and the areas of all masks, [M + 1]."""
    best = scores.new_zeros(size)
    owner = torch.zeros(size, dtype=torch.int64, device=scores.device)
    areas = [owner.new_zeros(())]
    for number, (score, logits) in enumerate(zip(scores, mask_logits, strict=True), 1):
        mask = resized_to_original(logits[None, None], padded, unpadded, size)[0, 0]
        areas.append((mask >= 0).sum())
        product = score * mask.sigmoid()
        owner.masked_fill_(product > best, number)
        torch.maximum(best, product, out=best)
    return owner, torch.stack(areas)


def _owners_at_once(
    scores: Tensor, mask_logits: Tensor, padded: Size, unpadded: Size, size: Size
) -> tuple[Tensor, Tensor]:
    """`_owners` without a loop, for graphs."""
    masks = F.pad(mask_logits, (0, 0, 0, 0, 1, 0), value=-1)  # there may be no mask
    masks = resized_to_original(masks[None], padded, unpadded, size)[0]
    owner = (F.pad(scores, (1, 0))[:, None, None] * masks.sigmoid()).argmax(dim=0)
    return owner, (masks >= 0).sum(dim=(1, 2))


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
