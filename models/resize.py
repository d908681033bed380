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
