"""Resizing of network outputs to the sizes of images, in bounded memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from structures import Size

_AT_ONCE = 1 << 22  # numbers held at full resolution


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
