"""Merge objects that were found several times, in windows that overlap or in several views."""

from collections.abc import Sequence
from typing import Literal

import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from config import Fraction, Schema
from structures import Instances, Size


class MergeConfig(Schema):
    """Which objects are one: those whose boxes match by at least `threshold`.

    rule: nms: the best one stays. greedy: it grows by those that match it, best first: its box encloses theirs and its
    mask is the union (GREEDYNMM of sahi, Akyon et al., ICIP 2022). The score is the best one's.
    measure: iou: intersection over union; ios: over the smaller of both boxes, so that a part matches its whole.
    class_agnostic: objects of different classes may be one, too.
    """

    rule: Literal["nms", "greedy"] = "nms"
    measure: Literal["iou", "ios"] = "iou"
    threshold: Fraction = 0.5
    class_agnostic: bool = False


def merge(found: Instances, config: MergeConfig, size: Size) -> Instances:
    """The objects that remain, best first. found: with scores and, if there are masks, rles at the image's `size`."""
    assert found.scores is not None
    order = found.scores.argsort(descending=True, stable=True)
    boxes, labels, scores = found.boxes[order], found.labels[order], found.scores[order]
    rles = None if found.rles is None else [found.rles[index] for index in order.tolist()]
    waiting = torch.ones(len(boxes), dtype=torch.bool)
    kept, merged = [], []
    for index in range(len(boxes)):
        if not waiting[index]:
            continue
        waiting[index] = False
        rivals = waiting if config.class_agnostic else waiting & (labels == labels[index])
        candidates = torch.nonzero(rivals).flatten()
        same = candidates[overlaps(boxes[index], boxes[candidates], config.measure) >= config.threshold]
        waiting[same] = False
        box, parts = boxes[index], [index]
        if config.rule == "greedy":
            for other in same.tolist():
                # Again, since the box has grown. What then no longer matches is dropped, as in sahi.
                if overlaps(box, boxes[other : other + 1], config.measure)[0] >= config.threshold:
                    box = torch.cat([box[:2].minimum(boxes[other, :2]), box[2:].maximum(boxes[other, 2:])])
                    parts.append(other)
        kept.append(index)
        merged.append((box, parts))
    return Instances(
        torch.stack([box for box, _ in merged]) if merged else boxes,
        labels[kept],
        scores=scores[kept],
        rles=None if rles is None else [union([rles[part] for part in parts], size) for _, parts in merged],
    )


def overlaps(box: Tensor, boxes: Tensor, measure: Literal["iou", "ios"]) -> Tensor:
    """IoU or IoS of a box [4] and boxes [N, 4]: [N], 0 where both are empty."""
    sides = (box[2:].minimum(boxes[:, 2:]) - box[:2].maximum(boxes[:, :2])).clamp(min=0)
    common = sides.prod(dim=1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    whole = areas.minimum(area) if measure == "ios" else areas + area - common
    return torch.where(whole > 0, common / whole, 0)


def union(rles: Sequence[bytes], size: Size) -> bytes:
    """The union of masks."""
    if len(rles) == 1:
        return rles[0]
    counts: bytes = mask_utils.merge([{"size": list(size), "counts": rle} for rle in rles])["counts"]
    return counts
