"""Resizing of network outputs to the sizes of images or labels, and what is computed there, in bounded memory.

Logits at full size would be by far the largest tensors of a segmentation network. So the loss, the best class and the
votes of masks are computed a few rows or a few classes at a time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from structures import IGNORE, Size

_AT_ONCE = 1 << 22  # numbers held at full resolution
# The same for the loss. On a CPU they should stay in its cache; an accelerator wants large kernels.
_STRIP_ON_CPU, _STRIP_ON_ACCELERATOR = 1 << 20, 1 << 26


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


def resized_argmax(logits: Tensor, padded: Size, inside: Size, size: Size) -> Tensor:
    """The class of every pixel [H, W] int16 of the original image, from logits [K, h, w]; of equals, the lowest.

    Logits are resized bilinearly to the `padded` network input, cut to the part `inside` the padding, and resized to
    the original `size`: a few classes at a time, keeping only the best so far.
    """
    best = logits.new_full(size, -torch.inf, dtype=torch.float32)
    classes = torch.zeros(size, dtype=torch.int16, device=logits.device)
    step = max(1, _AT_ONCE // max(padded[0] * padded[1], size[0] * size[1]))
    for start in range(0, len(logits), step):
        chunk = F.interpolate(logits[None, start : start + step].float(), size=padded, mode="bilinear")
        chunk = chunk[:, :, : inside[0], : inside[1]]
        if inside != size:
            chunk = F.interpolate(chunk, size=size, mode="bilinear")
        for label, score in enumerate(chunk[0], start):
            classes.masked_fill_(score > best, label)
            torch.maximum(best, score, out=best)
    return classes


def best_classes(classes: Tensor, masks: Tensor, padded: Size, inside: Size, size: Size) -> Tensor:
    """The class of every pixel [H, W] int16 of the original image, from masks that vote; of equals, the lowest.

    classes: [Q, K] probabilities, masks: [Q, h, w] logits. Masks are resized bilinearly to the `padded` network input
    and made probabilities; the sums of products, cut to the part `inside` the padding, are resized to the original
    `size`: a few rows at a time.
    """
    result = torch.empty(size, dtype=torch.int16, device=masks.device)
    enlarge, first, last = row_weights(padded[0], masks.shape[1], masks)
    fit, first_inside, last_inside = row_weights(size[0], inside[0], masks)
    rows = max(1, _AT_ONCE // (max(padded[1], size[1]) * sum(classes.shape)))
    for top in range(0, size[0], rows):
        bottom = min(top + rows, size[0])
        needed = slice(top, bottom)
        if inside != size:
            needed = slice(first_inside[top], last_inside[bottom - 1] + 1)
        source = slice(first[needed.start], last[needed.stop - 1] + 1)
        narrow = masks[None, :, source].float()
        wide = F.interpolate(narrow, (narrow.shape[2], padded[1]), mode="bilinear")[0]
        votes = torch.einsum("or,qrw->qow", enlarge[needed, source], wide).sigmoid()[:, :, : inside[1]]
        scores = torch.einsum("qk,qow->kow", classes.float(), votes)
        if inside != size:
            scores = F.interpolate(scores[None], (scores.shape[1], size[1]), mode="bilinear")[0]
            scores = torch.einsum("or,krw->kow", fit[top:bottom, needed], scores)
        result[top:bottom] = scores.argmax(dim=0)
    return result


def row_weights(out: int, rows: int, like: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Weights [out, rows] of bilinear resizing (align_corners=False), and each output's first and last source row."""
    position = ((torch.arange(out) + 0.5) * (rows / out) - 0.5).clamp(min=0)
    first = position.long().clamp(max=rows - 1)
    last = (first + 1).clamp(max=rows - 1)
    fraction = (position - first)[:, None]
    weights = torch.zeros(out, rows).scatter_add_(1, first[:, None], 1 - fraction)
    weights = weights.scatter_add_(1, last[:, None], fraction).to(like.device)
    return weights, first.tolist(), last.tolist()
