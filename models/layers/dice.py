"""The Dice loss for semantic segmentation."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from models.layers.pixel_losses import PixelLoss, PixelLossConfig, ResizedRows, flat
from runtime.distributed import sum_over_processes
from structures import DatasetInfo, Size


class DiceConfig(PixelLossConfig):
    """1 - D, with D = 2 sum(p g) / (sum(p²) + sum(g²)) for each class over all labelled pixels of the step.

    p: the probability of the class, g: whether a pixel has it. The mean is over the classes that occur in the labels.
    Milletari et al., "V-Net", 3DV 2016, section 3, for two classes.
    """

    name: Literal["dice"] = "dice"

    def build(self, info: DatasetInfo) -> "PixelLoss":
        """The loss."""
        return Dice("loss_dice", self.weight, None)


class Dice(PixelLoss):
    """See DiceConfig."""

    def forward(self, logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """See PixelLoss."""
        sums: Tensor = _PixelSums.apply(logits, labels)
        both, predicted, labelled = sum_over_processes(sums)
        occurs = labelled > 0
        dice = 2 * both / torch.where(occurs, predicted + labelled, 1.0)
        return torch.where(occurs, 1 - dice, 0.0).sum() / occurs.sum().clamp(min=1)


class _PixelSums(torch.autograd.Function):
    """Logits [B, K, h, w], labels [B, H, W] -> sums over labelled pixels [3, K]: p g, p² and g, of each class.

    The backward pass resizes the logits again, and so keeps nothing but them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(logits, labels)
        sums = logits.new_zeros(3, logits.shape[1])
        for image, own_labels in zip(logits.split(1), labels, strict=True):
            rows = ResizedRows(image, (labels.shape[1], labels.shape[2]))
            for chunk, scores in rows.chunks():
                p, g = _memberships(scores, own_labels[chunk])
                sums += torch.stack([(p * g).sum(0), p.square().sum(0), g.sum(0)])
        return sums

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for image, own_labels, own_gradient in zip(logits.split(1), labels, gradient.split(1), strict=True):
            rows = ResizedRows(image, (labels.shape[1], labels.shape[2]))
            for chunk, scores in rows.chunks():
                p, g = _memberships(scores, own_labels[chunk])
                by_p = slopes[0] * g + 2 * slopes[1] * p
                rows.add_gradient(chunk, p * (by_p - (p * by_p).sum(1, keepdim=True)))
            own_gradient.copy_(rows.gradient())
        return gradient, None


def _memberships(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of P pixels as [P, K] float32, both 0 at ignored pixels."""
    label, counts = flat(labels)
    return scores.softmax(dim=1) * counts, torch.zeros_like(scores).scatter_(1, label, counts)
