"""Online hard example mining for semantic segmentation."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from config import Fraction
from models.layers.class_weights import ClassWeights, class_weights
from models.layers.pixel_losses import PixelLoss, PixelLossConfig, ResizedRows, flat, pixel_cross_entropy
from runtime.distributed import sum_over_processes
from structures import IGNORE, DatasetInfo, Size

_HALF = 1 << 16  # values of half of a float32's bits


class OHEMConfig(PixelLossConfig):
    """Online hard example mining: cross-entropy of the pixels alone whose class has a probability below `threshold`.

    If these are fewer than `min_kept` times the images of the step, the threshold rises so that these many pixels are
    below it. The rule of mmsegmentation's OHEMPixelSampler (Shrivastava et al., CVPR 2016, for regions): still the mean
    over all pixels. class_weights: see `ClassWeights`; they do not change which pixels count.
    """

    name: Literal["ohem"] = "ohem"
    threshold: Fraction = 0.7
    min_kept: PositiveInt = 100_000
    class_weights: ClassWeights = None

    def build(self, info: DatasetInfo) -> "PixelLoss":
        """The loss for the classes of `info`."""
        weights = class_weights(self.class_weights, info)
        return HardCrossEntropy("loss_ohem", self.weight, weights, self.threshold, self.min_kept)


class HardCrossEntropy(PixelLoss):
    """Cross-entropy of hard pixels; see OHEMConfig."""

    def __init__(self, name: str, weight: float, class_weights: Tensor | None, threshold: float, min_kept: int) -> None:
        super().__init__(name, weight, class_weights)
        self.threshold, self.min_kept = threshold, min_kept

    def forward(self, logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """See PixelLoss."""
        hard = hard_labels(logits.detach(), labels, self.threshold, self.min_kept)
        return pixel_cross_entropy(logits, hard, sizes, self.class_weights)


def hard_labels(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    """`labels` [B, H, W] with IGNORE at all pixels that are too easy, by the rule of OHEMConfig."""
    probabilities = torch.stack([_probabilities(*image) for image in zip(logits.split(1), labels, strict=True)])
    labelled = labels != IGNORE
    limit = order_statistic(probabilities[labelled], min_kept * len(labels)).clamp(min=threshold)
    return labels.masked_fill(probabilities >= limit, IGNORE)


def _probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of each pixel's own class, [H, W], from logits [1, K, h, w]; 0 if it is not finite."""
    rows = ResizedRows(logits, (labels.shape[0], labels.shape[1]))
    parts = [scores.softmax(dim=1).gather(1, flat(labels[chunk])[0]) for chunk, scores in rows.chunks()]
    return torch.cat(parts).view(labels.shape).nan_to_num(0.0)


def order_statistic(values: Tensor, rank: int) -> Tensor:
    """Of the float32 `values` >= 0 of all processes: the one at `rank` if they are sorted, or the last; 0 of none.

    rank: from 0, the sum over processes counts. Exact: such numbers are ordered like their bits, which are counted in
    two halves.
    """
    bits = values.view(torch.int32)
    high, low = bits >> 16, bits & 0xFFFF
    own = torch.bincount(high, minlength=_HALF)
    counts, wanted = sum_over_processes(torch.cat([own, own.new_tensor([rank])])).split([_HALF, 1])
    ends = counts.cumsum(0)
    wanted = torch.minimum(wanted, ends[-1:] - 1).clamp(min=0)
    bucket = torch.searchsorted(ends, wanted, right=True).clamp(max=_HALF - 1)
    inside = sum_over_processes(torch.bincount(low[high == bucket], minlength=_HALF)).cumsum(0)
    rest = torch.searchsorted(inside, wanted - (ends - counts)[bucket], right=True)
    found = ((bucket << 16) + rest).int().view(torch.float32)[0]
    return torch.where(ends[-1] > 0, found, 0.0)
