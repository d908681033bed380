"""Combine masks with classes into a panoptic segmentation, so that each pixel has one segment at most.

Cheng et al., NeurIPS 2021, section 3.4, and their released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Fraction, Schema
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
    scores, labels = class_logits.float().softmax(dim=1).max(dim=1)
    kept = ((labels < len(things)) & (scores > config.min_score)).nonzero()[:, 0].tolist()
    best = scores.new_zeros(size)
    owner = torch.zeros(size, dtype=torch.int32, device=mask_logits.device)  # 1 + index in `kept`; 0: none
    areas = []
    for number, query in enumerate(kept, 1):
        mask = F.interpolate(mask_logits[None, None, query].float(), padded, mode="bilinear")[
            :, :, : unpadded[0], : unpadded[1]
        ]
        if unpadded != size:
            mask = F.interpolate(mask, size, mode="bilinear")
        areas.append(int((mask >= 0).sum()))
        product = scores[query] * mask[0, 0].sigmoid()
        owner.masked_fill_(product > best, number)
        torch.maximum(best, product, out=best)
    visible_areas = owner.flatten().bincount(minlength=len(kept) + 1).tolist()[1:]
    ids = torch.zeros(len(kept) + 1, dtype=torch.int32)  # segment id of each owner
    segment_labels: dict[int, int] = {}
    stuff_ids: dict[int, int] = {}
    for number, (query, area, visible) in enumerate(zip(kept, areas, visible_areas, strict=True), 1):
        if not visible or not area or visible < config.min_visible * area:
            continue
        label = int(labels[query])
        segment = stuff_ids.get(label, len(segment_labels) + 1)
        if not things[label]:
            stuff_ids[label] = segment
        segment_labels[segment] = label
        ids[number] = segment
    return Panoptic(ids.to(owner.device)[owner.long()], segment_labels)
