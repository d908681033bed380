"""Resize network outputs to the size of images or labels and find the classes there, in bounded memory.

Logits at full size would be by far the largest tensors of a segmentation network. So the best class of each pixel and
the class scores from masks are computed in chunks: a few rows or a few classes at a time.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from structures import Batch, Prediction, Size

_CHUNK_ELEMENTS = 1 << 22  # elements at full resolution that are held at a time


def size_of(numbers: Tensor, within: Size | None = None) -> Size:
    """A (height, width) that is given as a tensor [2] int64. within: what it does not exceed, if known.

    While a graph is traced both are symbols. The tracer asks whether they are 1; the answer is no, and the graph is
    right even if they are.
    """
    height, width = numbers.tolist()
    if torch.compiler.is_exporting():
        for side, most in zip((height, width), within or (None, None), strict=True):
            torch._check(side >= 2)
            if most is not None:
                torch._check(side <= most)
    return height, width


def resized_to_original(maps: Tensor, padded: Size, unpadded: Size, size: Size) -> Tensor:
    """Resize maps [B, C, h, w] to float32 maps [B, C, H, W] of an image at its original `size`.

    They are resized bilinearly to the `padded` size of the network input, cropped to the `unpadded` size (without
    padding), and resized to the original `size`.
    """
    maps = F.interpolate(maps.float(), size=padded, mode="bilinear")[:, :, : unpadded[0], : unpadded[1]]
    if torch.compiler.is_exporting() or unpadded != size:  # a graph serves both cases; to the same size it is exact
        maps = F.interpolate(maps, size=size, mode="bilinear")
    return maps


def resized_argmax(logits: Tensor, padded: Size, unpadded: Size, size: Size) -> Tensor:
    """The class of every pixel, [H, W] int16 at the original `size`, from logits [K, h, w]. Ties: the lowest class.

    Logits are resized as in `resized_to_original`. This is done for a few classes at a time, keeping only the best
    class so far; in an exported graph at once, [H, W] int32.
    """
    if torch.compiler.is_exporting():
        return resized_to_original(logits[None], padded, unpadded, size)[0].argmax(dim=0).int()
    best = logits.new_full(size, -torch.inf, dtype=torch.float32)
    classes = torch.zeros(size, dtype=torch.int16, device=logits.device)
    step = max(1, _CHUNK_ELEMENTS // max(padded[0] * padded[1], size[0] * size[1]))
    for start in range(0, len(logits), step):
        chunk = resized_to_original(logits[None, start : start + step], padded, unpadded, size)
        for label, score in enumerate(chunk[0], start):
            classes.masked_fill_(score > best, label)
            torch.maximum(best, score, out=best)
    return classes


def semantic_predictions(logits: Tensor, batch: Batch) -> list[Prediction]:
    """The class map of each image at its original size, from logits [B, K, h, w]; see `resized_argmax`."""
    height, width = batch.images.shape[-2:]
    return [
        Prediction(semantic=resized_argmax(scores, (height, width), unpadded, target.size))
        for scores, unpadded, target in zip(logits, batch.sizes, batch.targets, strict=True)
    ]


def class_probabilities(logits: Tensor, images: Tensor, unpadded: Size) -> Tensor:
    """[B, K, *unpadded] float32, at the size of images [B, C, H, W] without padding, from logits [B, K, h, w]."""
    maps = F.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear")
    maps = maps[:, :, : unpadded[0], : unpadded[1]]
    maps -= maps.amax(dim=1, keepdim=True)  # a softmax in place: with many classes these are the largest tensors
    maps.exp_()
    maps /= maps.sum(dim=1, keepdim=True)
    return maps


def semantic_tensors(logits: Tensor, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
    """{"semantic": [h, w] int32} of one image: `resized_argmax` of logits [1, K, h, w]; see DenseModel."""
    padded = images.shape[2], images.shape[3]
    classes = resized_argmax(logits[0], padded, size_of(unpadded, within=padded), size_of(size))
    return {"semantic": classes.int()}


def argmax_from_masks(
    class_probabilities: Tensor, mask_logits: Tensor, padded: Size, unpadded: Size, size: Size
) -> Tensor:
    """The class of every pixel, [H, W] int16 at the original `size`, from masks. Ties: the lowest class.

    class_probabilities: [Q, K]. mask_logits: [Q, h, w]. Mask logits are resized bilinearly to the `padded` size of the
    network input and turned into probabilities. The score of a class at a pixel is the sum over masks of the product of
    both probabilities. Scores are cropped to the `unpadded` size (without padding) and resized to the original `size`.
    This is done a few rows at a time; in an exported graph at once, [H, W] int32.
    """
    if torch.compiler.is_exporting():
        masks = F.interpolate(mask_logits[None].float(), size=padded, mode="bilinear").sigmoid()
        scores = torch.einsum("qk,bqow->bkow", class_probabilities.float(), masks[:, :, : unpadded[0], : unpadded[1]])
        return F.interpolate(scores, size=size, mode="bilinear")[0].argmax(dim=0).int()
    result = torch.empty(size, dtype=torch.int16, device=mask_logits.device)
    to_padded, first, last = row_weights(padded[0], mask_logits.shape[1], mask_logits.device)
    to_original, first_unpadded, last_unpadded = row_weights(size[0], unpadded[0], mask_logits.device)
    rows = max(1, _CHUNK_ELEMENTS // (max(padded[1], size[1]) * sum(class_probabilities.shape)))
    for top in range(0, size[0], rows):
        bottom = min(top + rows, size[0])
        needed = slice(top, bottom)
        if unpadded != size:
            needed = slice(first_unpadded[top], last_unpadded[bottom - 1] + 1)
        source = slice(first[needed.start], last[needed.stop - 1] + 1)
        narrow = mask_logits[None, :, source].float()
        wide = F.interpolate(narrow, (narrow.shape[2], padded[1]), mode="bilinear")[0]
        mask_probabilities = torch.einsum("or,qrw->qow", to_padded[needed, source], wide).sigmoid()[:, :, : unpadded[1]]
        scores = torch.einsum("qk,qow->kow", class_probabilities.float(), mask_probabilities)
        if unpadded != size:
            scores = F.interpolate(scores[None], (scores.shape[1], size[1]), mode="bilinear")[0]
            scores = torch.einsum("or,krw->kow", to_original[top:bottom, needed], scores)
        result[top:bottom] = scores.argmax(dim=0)
    return result


def row_weights(out: int, rows: int, device: torch.device) -> tuple[Tensor, list[int], list[int]]:
    """Bilinear resizing of `rows` rows to `out` rows (align_corners=False) as a matrix product.

    Returns weights [out, rows] on `device`, and for each output row its first and its last source row.
    """
    position = ((torch.arange(out) + 0.5) * (rows / out) - 0.5).clamp(min=0)
    first = position.long().clamp(max=rows - 1)
    last = (first + 1).clamp(max=rows - 1)
    fraction = (position - first)[:, None]
    weights = torch.zeros(out, rows).scatter_add_(1, first[:, None], 1 - fraction)
    weights = weights.scatter_add_(1, last[:, None], fraction).to(device)
    return weights, first.tolist(), last.tolist()


# For losses, which needs the same ones at every step: making them takes time, and copying them waits for the device.
kept_row_weights = functools.lru_cache(maxsize=8)(row_weights)
