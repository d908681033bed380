"""Masks with classes into one partition of the image. Cheng et al., NeurIPS 2021, section 3.4, and their release."""

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Fraction, Schema
from structures import Panoptic, Size


class PartitionConfig(Schema):
    """Which masks become segments. Defaults: those of the release.

    min_score: the probability of its class that a mask must exceed. min_visible: the share of what a mask holds, by
    itself, that must remain to it beside the others.
    """

    min_score: Fraction = 0.8
    min_visible: Fraction = 0.8


def partition(
    classes: Tensor, masks: Tensor, padded: Size, inside: Size, size: Size, things: Tensor, config: PartitionConfig
) -> Panoptic:
    """The segments of one image of the original `size`, ids from 1.

    classes [Q, K + 1] and masks [Q, h, w] are logits, the last class is none; things [K] bool. Masks are resized
    bilinearly to the `padded` network input, cut to the part `inside` the padding, and resized to `size`, one at a
    time. Every pixel goes to the mask with the highest product of probabilities, of class and of pixel; it becomes void
    if too little of that mask is visible. Visible masks of one class of stuff are one segment.
    """
    scores, labels = classes.float().softmax(dim=1).max(dim=1)
    kept = ((labels < len(things)) & (scores > config.min_score)).nonzero()[:, 0].tolist()
    best = scores.new_zeros(size)
    owner = torch.zeros(size, dtype=torch.int32, device=masks.device)  # 1 + place in `kept`
    held = []
    for place, query in enumerate(kept, 1):
        mask = F.interpolate(masks[None, None, query].float(), padded, mode="bilinear")[:, :, : inside[0], : inside[1]]
        if inside != size:
            mask = F.interpolate(mask, size, mode="bilinear")
        held.append(int((mask >= 0).sum()))
        product = scores[query] * mask[0, 0].sigmoid()
        owner.masked_fill_(product > best, place)
        torch.maximum(best, product, out=best)
    owned = owner.flatten().bincount(minlength=len(kept) + 1).tolist()[1:]
    segments = torch.zeros(len(kept) + 1, dtype=torch.int32)  # id of every owner
    names: dict[int, int] = {}
    of_stuff: dict[int, int] = {}
    for place, query in enumerate(kept):
        if not owned[place] or not held[place] or owned[place] < config.min_visible * held[place]:
            continue
        label = int(labels[query])
        number = of_stuff.get(label, len(names) + 1)
        if not things[label]:
            of_stuff[label] = number
        names[number] = label
        segments[place + 1] = number
    return Panoptic(segments.to(owner.device)[owner.long()], names)
