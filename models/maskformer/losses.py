"""What MaskFormer learns from: a mask for each class or thing of the image, matched with queries one to one.

Cheng et al., NeurIPS 2021, section 3; matching as in Carion et al., "DETR", ECCV 2020; focal loss: Lin et al., ICCV
2017; dice loss: Milletari et al., 3DV 2016.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from runtime.distributed import mean_count
from structures import IGNORE, Target

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 1.0, 20.0, 1.0  # of the costs of a match and of the losses
NO_OBJECT_WEIGHT = 0.1  # of queries without a mask in the cross-entropy
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


class Segments(NamedTuple):
    """What is true of one image: labels [T] int64 and masks [T, H, W] bool."""

    labels: Tensor
    masks: Tensor


class Queries(NamedTuple):
    """What a layer says: class logits [B, Q, K + 1], the last for no object, and mask logits [B, Q, h, w]."""

    classes: Tensor
    masks: Tensor


def segments_of(target: Target, things: Tensor) -> Segments:
    """One mask for each label that occurs in the semantic map, or, if `things` [K] bool has it, for each such object.

    Pixels to ignore, and crowds of things, belong to none.
    """
    semantic, objects = target.semantic, target.instances
    assert semantic is not None
    labels = semantic.unique().long()
    labels = labels[labels != IGNORE]
    labels = labels[~things[labels]]
    found = Segments(labels, semantic == labels[:, None, None])
    if objects is None:
        return found
    assert objects.masks is not None
    own = slice(None) if objects.crowd is None else ~objects.crowd
    return Segments(torch.cat([objects.labels[own], found.labels]), torch.cat([objects.masks[own], found.masks]))


@torch.no_grad()
def match(classes: Tensor, masks: Tensor, truth: Segments) -> tuple[Tensor, Tensor]:
    """Which query of one image is whose: indices of queries and of true masks, [min(Q, T)] int64 each.

    classes [Q, K + 1] and masks [Q, h, w] are logits; true masks are resized to theirs by nearest pixel. The sum of all
    costs is the least possible.
    """
    costs = match_costs(classes.float(), masks.float(), truth)
    # A network that has diverged is found out by its loss, which will not be finite either.
    rows, columns = linear_sum_assignment(costs.nan_to_num().cpu().numpy())
    return torch.from_numpy(rows).to(masks.device), torch.from_numpy(columns).to(masks.device)


def match_costs(classes: Tensor, masks: Tensor, truth: Segments) -> Tensor:
    """[Q, T], as products of matrices, so that no number exists for each query, true mask and pixel."""
    true = F.interpolate(truth.masks[None].float(), masks.shape[-2:], mode="nearest")[0].flatten(1)
    logits = masks.flatten(1)
    p = logits.sigmoid()
    inside = ALPHA * (1 - p) ** GAMMA * F.softplus(-logits)
    outside = (1 - ALPHA) * p**GAMMA * F.softplus(logits)
    focal = (inside @ true.T + outside @ (1 - true).T) / logits.shape[1]
    dice = 1 - (2 * p @ true.T + 1) / (p.sum(dim=1, keepdim=True) + true.sum(dim=1) + 1)
    probability = classes.softmax(dim=1)[:, truth.labels]
    return MASK_WEIGHT * focal + DICE_WEIGHT * dice - CLASS_WEIGHT * probability


def losses(queries: Queries, truth: list[Segments], padded: torch.Size) -> dict[str, Tensor]:
    """{"loss_class", "loss_mask", "loss_dice"} of one layer, weighted, at the size of the true masks.

    The first is a weighted mean over queries; the others are sums over matched masks by the mean number of true masks
    over processes.
    """
    classes = queries.classes.float()
    no_object = classes.shape[2] - 1
    labels = classes.new_full(classes.shape[:2], no_object, dtype=torch.int64)
    focal = dice = queries.masks.float().sum() * 0  # so that masks have a gradient without any true one, too
    for image, segments in enumerate(truth):
        if not len(segments.labels):
            continue
        own, others = match(queries.classes[image], queries.masks[image], segments)
        labels[image, own] = segments.labels[others]
        logits = F.interpolate(queries.masks[None, image, own].float(), padded, mode="bilinear")[0]
        true = segments.masks[others].to(logits.dtype)
        focal = focal + _focal(logits, true).flatten(1).mean(dim=1).sum()
        p = logits.sigmoid()
        overlap, total = (p * true).sum(dim=(1, 2)), p.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
        dice = dice + (1 - (2 * overlap + 1) / (total + 1)).sum()
    weights = classes.new_ones(no_object + 1)
    weights[no_object] = NO_OBJECT_WEIGHT
    entropy = F.cross_entropy(classes.flatten(0, 1), labels.flatten(), weights, reduction="sum")
    number = mean_count(sum(len(segments.labels) for segments in truth), classes)
    return {
        "loss_class": CLASS_WEIGHT * entropy / mean_count(weights[labels].sum().item(), classes),
        "loss_mask": MASK_WEIGHT * focal / number,
        "loss_dice": DICE_WEIGHT * dice / number,
    }


def _focal(logits: Tensor, true: Tensor) -> Tensor:
    """The focal loss of every pixel."""
    p = logits.sigmoid()
    wrong = p * (1 - true) + (1 - p) * true
    alpha = ALPHA * true + (1 - ALPHA) * (1 - true)
    return alpha * wrong**GAMMA * F.binary_cross_entropy_with_logits(logits, true, reduction="none")
