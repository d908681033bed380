"""The targets, the matching and the losses of MaskFormer.

An image has one true mask for each of its stuff classes and each of its things. True masks are matched with queries one
to one. Cheng et al., NeurIPS 2021, section 3; matching as in Carion et al., "DETR", ECCV 2020; focal loss: Lin et al.,
ICCV 2017; dice loss: Milletari et al., 3DV 2016.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from runtime.distributed import mean_count
from structures import IGNORE, Target

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 1.0, 20.0, 1.0  # of the matching costs and of the losses
NO_OBJECT_WEIGHT = 0.1  # in the cross-entropy, of queries that are matched with no mask
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


class Segments(NamedTuple):
    """The true segments of one image: labels [T] int64 and masks [T, H, W] bool."""

    labels: Tensor
    masks: Tensor


class QueryLogits(NamedTuple):
    """The predictions of one layer for Q queries: class logits and mask logits.

    class_logits: [B, Q, K + 1], the last class is "no object". mask_logits: [B, Q, h, w].
    """

    class_logits: Tensor
    mask_logits: Tensor


def extract_segments(target: Target, things: Tensor) -> Segments:
    """The true segments of an image: one for each stuff label in the semantic map, and one for each thing.

    things: [K] bool, for each label whether it is a thing. Ignored pixels and crowds are in no segment.
    """
    semantic, objects = target.semantic, target.instances
    assert semantic is not None
    labels = semantic.unique().long()
    labels = labels[labels != IGNORE]
    labels = labels[~things[labels]]
    stuff = Segments(labels, semantic == labels[:, None, None])
    if objects is None:
        return stuff
    assert objects.masks is not None
    single = slice(None) if objects.crowd is None else ~objects.crowd
    return Segments(torch.cat([objects.labels[single], stuff.labels]), torch.cat([objects.masks[single], stuff.masks]))


@torch.no_grad()
def match(class_logits: Tensor, mask_logits: Tensor, truth: Segments) -> tuple[Tensor, Tensor]:
    """Match the queries of one image with its true segments one to one, at the lowest total cost.

    class_logits: [Q, K + 1]. mask_logits: [Q, h, w]. True masks are resized to h x w by nearest neighbour.
    Returns the indices of matched queries and of their true segments, [min(Q, T)] int64 each.
    """
    costs = match_costs(class_logits.float(), mask_logits.float(), truth)
    # Without nan_to_num NaN would raise here. If the network has diverged, its loss is not finite and shows it.
    rows, columns = linear_sum_assignment(costs.nan_to_num().cpu().numpy())
    return torch.from_numpy(rows).to(mask_logits.device), torch.from_numpy(columns).to(mask_logits.device)


def match_costs(class_logits: Tensor, mask_logits: Tensor, truth: Segments) -> Tensor:
    """The cost of each pair of query and true segment, [Q, T].

    Computed as matrix products, so that no tensor has a value per query, true mask and pixel.
    """
    true = F.interpolate(truth.masks[None].float(), mask_logits.shape[-2:], mode="nearest")[0].flatten(1)
    logits = mask_logits.flatten(1)
    p = logits.sigmoid()
    inside = ALPHA * (1 - p) ** GAMMA * F.softplus(-logits)
    outside = (1 - ALPHA) * p**GAMMA * F.softplus(logits)
    focal = (inside @ true.T + outside @ (1 - true).T) / logits.shape[1]
    dice = 1 - (2 * p @ true.T + 1) / (p.sum(dim=1, keepdim=True) + true.sum(dim=1) + 1)
    probability = class_logits.softmax(dim=1)[:, truth.labels]
    return MASK_WEIGHT * focal + DICE_WEIGHT * dice - CLASS_WEIGHT * probability


def losses(queries: QueryLogits, truth: list[Segments], padded: torch.Size) -> dict[str, Tensor]:
    """{"loss_class", "loss_mask", "loss_dice"} of one layer, weighted.

    padded: size of the network input and of the true masks, at which mask and dice loss are computed. The class loss is
    a weighted mean over queries. The other two are sums over matched masks, divided by the number of true masks (the
    mean over processes).
    """
    class_logits = queries.class_logits.float()
    no_object = class_logits.shape[2] - 1
    labels = class_logits.new_full(class_logits.shape[:2], no_object, dtype=torch.int64)
    focal = dice = queries.mask_logits.float().sum() * 0  # so that masks have a gradient even without any true mask
    for image, segments in enumerate(truth):
        if not len(segments.labels):
            continue
        matched, indices = match(queries.class_logits[image], queries.mask_logits[image], segments)
        labels[image, matched] = segments.labels[indices]
        logits = F.interpolate(queries.mask_logits[None, image, matched].float(), padded, mode="bilinear")[0]
        true = segments.masks[indices].to(logits.dtype)
        focal = focal + _focal(logits, true).flatten(1).mean(dim=1).sum()
        p = logits.sigmoid()
        overlap, total = (p * true).sum(dim=(1, 2)), p.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
        dice = dice + (1 - (2 * overlap + 1) / (total + 1)).sum()
    weights = class_logits.new_ones(no_object + 1)
    weights[no_object] = NO_OBJECT_WEIGHT
    entropy = F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weights, reduction="sum")
    number = mean_count(sum(len(segments.labels) for segments in truth), class_logits)
    return {
        "loss_class": CLASS_WEIGHT * entropy / mean_count(weights[labels].sum().item(), class_logits),
        "loss_mask": MASK_WEIGHT * focal / number,
        "loss_dice": DICE_WEIGHT * dice / number,
    }


def _focal(logits: Tensor, true: Tensor) -> Tensor:
    """The focal loss of each pixel. `true` is 0 or 1, in the shape of the logits."""
    p = logits.sigmoid()
    error = p * (1 - true) + (1 - p) * true
    alpha = ALPHA * true + (1 - ALPHA) * (1 - true)
    return alpha * error**GAMMA * F.binary_cross_entropy_with_logits(logits, true, reduction="none")
