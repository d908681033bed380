"""Losses that several models share."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models.resize import row_weights
from structures import IGNORE

# Numbers held at full resolution at a time. On a CPU they should stay in its cache; an accelerator wants large kernels.
_STRIP_ON_CPU, _STRIP_ON_ACCELERATOR = 1 << 20, 1 << 26

_DEPTH_OFFSET = 0.001  # metres, keeps logarithms finite
_SMALLEST_SQUARE = 1e-12  # a root's slope has no end at 0


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K, h, w], resized bilinearly to labels [B, H, W] (class or IGNORE) -> scalar.

    The mean is over all pixels, ignored ones included, as in the original SegFormer. Computed in float32 whatever
    autocast says, and strip by strip: neither the resized logits nor their gradient ever exist as a whole.
    """
    if torch.compiler.is_compiling():  # a loop over strips, which a compiler would only unroll
        loss: Tensor = torch.compiler.disable(_pixel_cross_entropy)(logits, labels)
        return loss
    return _pixel_cross_entropy(logits, labels)


def _pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _PixelCrossEntropy.apply(logits.float(), labels)
    return loss


class _PixelCrossEntropy(torch.autograd.Function):
    """Takes the gradient together with the value, while a strip of resized logits is at hand."""

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.contiguous(memory_format=torch.channels_last)
        gradient = torch.empty_like(logits)
        images = zip(logits.split(1), labels, gradient.split(1), strict=True)
        total = torch.stack([_one_image(*image) for image in images]).sum()
        context.save_for_backward(gradient.div_(labels.numel()))
        return total / labels.numel()

    @staticmethod
    def backward(context: Any, factor: Tensor) -> tuple[Tensor, None]:
        (gradient,) = context.saved_tensors
        return gradient * factor, None


def _one_image(logits: Tensor, labels: Tensor, gradient: Tensor) -> Tensor:
    """The loss summed over the labels [H, W] of one image; fills `gradient`, as large as the logits [1, K, h, w]."""
    (_, K, h, w), (H, W) = logits.shape, labels.shape
    # Columns first, by PyTorch; then rows, strip by strip, as products with the few rows of weights that a strip has.
    # Classes are the last axis, so that softmax and the products run over contiguous memory.
    wide = F.interpolate(logits, size=(h, W), mode="bilinear").permute(0, 2, 3, 1).reshape(h, W * K)
    wide_gradient = torch.zeros_like(wide)
    weights, first, last = row_weights(H, h, logits)
    total = logits.new_zeros(())
    strip = max(1, (_STRIP_ON_CPU if logits.device.type == "cpu" else _STRIP_ON_ACCELERATOR) // (W * K))
    for top in range(0, H, strip):
        bottom = min(top + strip, H)
        rows = slice(first[top], last[bottom - 1] + 1)
        matrix = weights[top:bottom, rows]
        scores = (matrix @ wide[rows]).view(-1, K).log_softmax(dim=1)
        label = labels[top:bottom].reshape(-1, 1).long()
        counts = (label != IGNORE).float()
        label = label.clamp_(min=0)
        total -= (scores.gather(1, label) * counts).sum()
        scores.exp_().scatter_add_(1, label, scores.new_full((1, 1), -1.0).expand_as(label)).mul_(counts)
        wide_gradient[rows] += matrix.T @ scores.view(bottom - top, W * K)
    if torch.are_deterministic_algorithms_enabled():  # on CUDA the operator below is not
        columns, _, _ = row_weights(W, w, logits)
        gradient.copy_((columns.T @ wide_gradient.view(h, W, K)).permute(2, 0, 1))
        return total
    wide_gradient = wide_gradient.view(1, h, W, K).permute(0, 3, 1, 2)
    gradient.copy_(torch.ops.aten.upsample_bilinear2d_backward(wide_gradient, [h, W], [1, K, h, w], False))
    return total


def scale_invariant_log_loss(depth: Tensor, labels: Tensor) -> Tensor:
    """How unevenly predicted depths [B, 1, H, W] differ from labels [B, H, W] (metres, 0: not measured) -> scalar.

    The root of var(g) + 0.15 mean(g)², g the difference of logarithms, over all measured pixels of the batch: a common
    factor costs less than errors that vary (Eigen et al., NeurIPS 2014, in the form of Lee et al., "From Big to Small",
    without its factor of 10). In float32 whatever autocast says; 0 if nothing was measured. The batch is that of all
    processes together, so the loss does not depend on their number; the original takes each process's own.
    """
    measured = labels > 0
    count = _over_processes(measured.sum().float())
    g = (depth.squeeze(1).float() + _DEPTH_OFFSET).log() - (labels.float() + _DEPTH_OFFSET).log()
    g = torch.where(measured, g, 0)
    mean = _over_processes(g.sum()) / count.clamp(min=1)
    variance = _over_processes(torch.where(measured, g - mean, 0).square().sum()) / (count - 1).clamp(min=1)
    return (variance + 0.15 * mean.square()).clamp(min=_SMALLEST_SQUARE).sqrt()


def _over_processes(total: Tensor) -> Tensor:
    """The sum over all processes. Each sends gradients back to all, so that their mean is that of one process."""
    if not dist.is_initialized():
        return total
    from torch.distributed.nn.functional import all_reduce  # here, since it loads PyTorch's compiler, for seconds

    summed: Tensor = all_reduce(total)
    return summed


def mean_count(count: float, like: Tensor) -> Tensor:
    """What a loss over `count` things divides by: the mean count over processes, whose gradients are then averaged.

    So several processes give the gradient of one. A total of none counts as one.
    """
    total = torch.tensor(float(count), device=like.device)
    if not dist.is_initialized():
        return total.clamp(min=1)
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()
