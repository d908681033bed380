"""The targets, the matching and the losses of MaskFormer.

An image has one true mask for each of its stuff classes and each of its things. True masks are matched with queries one
to one. Cheng et al., NeurIPS 2021, section 3; matching as in Carion et al., "DETR", ECCV 2020; focal loss: Lin et al.,
ICCV 2017; dice loss: Milletari et al., 3DV 2016.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.distributed import mean_count
from structures import IGNORE, Size, Target

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 1.0, 20.0, 1.0  # of the matching costs and of the losses
NO_OBJECT_WEIGHT = 0.1  # in the cross-entropy, of queries that are matched with no mask
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


class Segments(NamedTuple):
    """The true segments of one image: labels [T] int64 and masks [T, H, W] bool.

    size: (height, width) of the image, at the top left of H x W. The rest is padding, and is not looked at.
    """

    labels: Tensor
    masks: Tensor
    size: Size


class QueryLogits(NamedTuple):
    """The predictions of one layer for Q queries: class logits and mask logits.

    class_logits: [B, Q, K + 1], the last class is "no object". mask_logits: [B, Q, h, w].
    """

    class_logits: Tensor
    mask_logits: Tensor


class Matches(NamedTuple):
    """For one layer and image, the matched queries and their true segments: indices, [min(Q, T)] int64 each."""

    queries: Tensor
    segments: Tensor


def extract_segments(target: Target, things: Tensor, size: Size) -> Segments:
    """The true segments of an image: one for each stuff label in the semantic map, and one for each thing.

    things: [K] bool, for each label whether it is a thing. size: of the image without padding. Ignored pixels and
    crowds are in no segment.
    """
    semantic, objects = target.semantic, target.instances
    assert semantic is not None
    labels = semantic.unique().long()
    labels = labels[(labels != IGNORE) & ~things[labels.clamp(min=0)]]
    masks = semantic == labels[:, None, None]
    if objects is not None:
        assert objects.masks is not None
        single = slice(None) if objects.crowd is None else torch.nonzero(~objects.crowd).flatten()
        labels = torch.cat([objects.labels[single], labels])
        masks = torch.cat([objects.masks[single], masks])
    return Segments(labels, masks, size)


@torch.no_grad()
def match(layers: Sequence[QueryLogits], truth: Sequence[Segments]) -> list[list[Matches]]:
    """For each layer and image, match the queries with the true segments one to one, at the lowest total cost.

    The costs of all layers go to the CPU together, and all matches come back together: a device is waited for once.
    """
    from scipy.optimize import linear_sum_assignment  # only here: it takes 0.3 s to import

    images = (image for layer in layers for image in zip(*layer, truth, strict=True))
    costs = [match_costs(class_logits, mask_logits, segments) for class_logits, mask_logits, segments in images]
    # Without nan_to_num NaN would raise here. If the network has diverged, its loss is not finite and shows it.
    numbers = torch.cat([cost.flatten() for cost in costs]).nan_to_num().cpu()
    parts = numbers.split([cost.numel() for cost in costs])
    pairs = [linear_sum_assignment(part.view(cost.shape).numpy()) for part, cost in zip(parts, costs, strict=True)]
    indices = torch.from_numpy(np.concatenate(pairs, axis=1)).to(costs[0].device, non_blocking=True)
    matches = [Matches(*part) for part in indices.split([len(queries) for queries, _ in pairs], dim=1)]
    return [matches[start : start + len(truth)] for start in range(0, len(matches), len(truth))]


def match_costs(class_logits: Tensor, mask_logits: Tensor, truth: Segments) -> Tensor:
    """The cost of each pair of query and true segment of one image, [Q, T].

    class_logits: [Q, K + 1]. mask_logits: [Q, h, w]. True masks are resized to h x w by nearest neighbour. The costs
    are matrix products, so that no tensor has a value per query, true mask and pixel.
    """
    (_, H, W), (_, h, w) = truth.masks.shape, mask_logits.shape
    rows, columns = -(-truth.size[0] * h // H), -(-truth.size[1] * w // W)
    true = F.interpolate(truth.masks[:, None].float(), (h, w), mode="nearest")[:, 0, :rows, :columns].flatten(1)
    logits = mask_logits.float()[:, :rows, :columns].flatten(1)
    p = logits.sigmoid()
    inside = ALPHA * (1 - p) ** GAMMA * F.softplus(-logits)
    outside = (1 - ALPHA) * p**GAMMA * F.softplus(logits)
    focal = (inside @ true.T + outside @ (1 - true).T) / logits.shape[1]
    dice = 1 - (2 * p @ true.T + 1) / (p.sum(dim=1, keepdim=True) + true.sum(dim=1) + 1)
    probability = class_logits.float().softmax(dim=1)[:, truth.labels]
    return MASK_WEIGHT * focal + DICE_WEIGHT * dice - CLASS_WEIGHT * probability


def losses(layers: Sequence[QueryLogits], truth: Sequence[Segments]) -> dict[str, Tensor]:
    """{"loss_class", "loss_mask", "loss_dice"}, weighted, each the sum over the given layers.

    The class loss is a weighted mean over queries. The other two are computed at the full size of the true masks,
    without padding; they are sums over matched masks, divided by the number of true masks. Both weights and masks are
    counted over all processes, for all layers together.
    """
    sums = [_sums_of_layer(layer, truth, matches) for layer, matches in zip(layers, match(layers, truth), strict=True)]
    entropies, weights, focals, dices = map(torch.stack, zip(*sums, strict=True))
    masks = weights.new_full((1,), sum(len(segments.labels) for segments in truth))
    number, *totals = mean_count(torch.cat([masks, weights]), weights)
    return {
        "loss_class": (CLASS_WEIGHT * entropies / torch.stack(totals)).sum(),
        "loss_mask": (MASK_WEIGHT * focals / number).sum(),
        "loss_dice": (DICE_WEIGHT * dices / number).sum(),
    }


def _sums_of_layer(
    layer: QueryLogits, truth: Sequence[Segments], matches: Sequence[Matches]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over a batch: weighted cross-entropy and weights over queries; focal and dice loss over matched masks."""
    class_logits = layer.class_logits.float()
    no_object = class_logits.shape[2] - 1
    labels = class_logits.new_full(class_logits.shape[:2], no_object, dtype=torch.int64)
    focal = dice = layer.mask_logits.float().sum() * 0  # so that masks have a gradient even without any true mask
    for image, (segments, (queries, indices)) in enumerate(zip(truth, matches, strict=True)):
        if not len(segments.labels):
            continue
        (height, width), padded = segments.size, segments.masks.shape[1:]
        labels[image, queries] = segments.labels[indices]
        logits = F.interpolate(layer.mask_logits[None, image, queries].float(), padded, mode="bilinear")
        logits = logits[0, :, :height, :width]
        true = segments.masks[indices, :height, :width].to(logits.dtype)
        focal = focal + _focal(logits, true).flatten(1).mean(dim=1).sum()
        p = logits.sigmoid()
        overlap, total = (p * true).sum(dim=(1, 2)), p.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
        dice = dice + (1 - (2 * overlap + 1) / (total + 1)).sum()
    weights = class_logits.new_ones(no_object + 1)
    weights[no_object] = NO_OBJECT_WEIGHT
    entropy = F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weights, reduction="sum")
    return entropy, weights[labels].sum(), focal, dice


def _focal(logits: Tensor, true: Tensor) -> Tensor:
    """The focal loss of each pixel. `true` is 0 or 1, in the shape of the logits."""
    p = logits.sigmoid()
    error = p * (1 - true) + (1 - p) * true
    alpha = ALPHA * true + (1 - ALPHA) * (1 - true)
    return alpha * error**GAMMA * F.binary_cross_entropy_with_logits(logits, true, reduction="none")
