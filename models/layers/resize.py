"""Resize network outputs to the size of images or labels and compute losses or classes there, in bounded memory.

Logits at full size would be by far the largest tensors of a segmentation network. So the loss, the best class of each
pixel and the class scores from masks are computed in chunks: a few rows or a few classes at a time.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.distributed import mean_count
from structures import IGNORE, Size

_CHUNK_ELEMENTS = 1 << 22  # elements at full resolution that are held at a time
# The same for the loss. On a CPU a chunk should fit into the cache; an accelerator needs large kernels.
_LOSS_CHUNK_ELEMENTS_ON_CPU, _LOSS_CHUNK_ELEMENTS_ON_ACCELERATOR = 1 << 20, 1 << 26


def pixel_cross_entropy(logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Cross-entropy of logits [B, K, h, w], resized bilinearly to the size of labels [B, H, W] -> scalar.

    labels: class or IGNORE. sizes: (height, width) of each image; what lies beyond is padding of the batch, all IGNORE.
    The mean is over all pixels of the images of all processes, ignored ones included, as in
    the original SegFormer: their sum, divided by the mean number of pixels per process. It is computed in float32 even
    under autocast, and in chunks of rows: neither the resized logits nor their gradient ever exist as a whole.
    """
    pixels = sum(height * width for height, width in sizes)
    if torch.compiler.is_compiling():  # the compiler would only unroll the loop over chunks
        loss: Tensor = torch.compiler.disable(_pixel_cross_entropy)(logits, labels, pixels)
        return loss
    return _pixel_cross_entropy(logits, labels, pixels)


def _pixel_cross_entropy(logits: Tensor, labels: Tensor, pixels: int) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _PixelCrossEntropy.apply(logits.float(), labels, mean_count(pixels, logits))
    return loss


class _PixelCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, while each chunk of resized logits is in memory."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, divisor: Tensor) -> Tensor:
        logits = logits.contiguous(memory_format=torch.channels_last)
        gradient = torch.empty_like(logits)
        images = zip(logits.split(1), labels, gradient.split(1), strict=True)
        total = torch.stack([_image_loss(*image) for image in images]).sum()
        ctx.save_for_backward(gradient.div_(divisor))
        return total / divisor

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor, None, None


def _image_loss(logits: Tensor, labels: Tensor, gradient: Tensor) -> Tensor:
    """Sum the loss over labels [H, W] of one image with logits [1, K, h, w]; write its gradient into `gradient`."""
    (_, K, h, w), (H, W) = logits.shape, labels.shape
    # PyTorch resizes the columns first. Then the rows are resized chunk by chunk, as a matrix product with the rows of
    # interpolation weights of the chunk. Classes are the last axis, so that softmax and products use contiguous memory.
    wide = F.interpolate(logits, size=(h, W), mode="bilinear").permute(0, 2, 3, 1).reshape(h, W * K)
    wide_gradient = torch.zeros_like(wide)
    weights, first, last = _kept_row_weights(H, h, logits.device)
    total = logits.new_zeros(())
    elements = _LOSS_CHUNK_ELEMENTS_ON_CPU if logits.device.type == "cpu" else _LOSS_CHUNK_ELEMENTS_ON_ACCELERATOR
    chunk_rows = max(1, elements // (W * K))
    for top in range(0, H, chunk_rows):
        bottom = min(top + chunk_rows, H)
        rows = slice(first[top], last[bottom - 1] + 1)
        matrix = weights[top:bottom, rows]
        scores = (matrix @ wide[rows]).view(-1, K).log_softmax(dim=1)
        label = labels[top:bottom].reshape(-1, 1).long()
        counts = (label != IGNORE).float()
        label = label.clamp_(min=0)
        total -= (scores.gather(1, label) * counts).sum()
        scores.exp_().scatter_add_(1, label, scores.new_full((1, 1), -1.0).expand_as(label)).mul_(counts)
        wide_gradient[rows] += matrix.T @ scores.view(bottom - top, W * K)
    if torch.are_deterministic_algorithms_enabled():  # on CUDA the operator below is not deterministic
        columns, _, _ = _kept_row_weights(W, w, logits.device)
        gradient.copy_((columns.T @ wide_gradient.view(h, W, K)).permute(2, 0, 1))
        return total
    wide_gradient = wide_gradient.view(1, h, W, K).permute(0, 3, 1, 2)
    gradient.copy_(torch.ops.aten.upsample_bilinear2d_backward(wide_gradient, [h, W], [1, K, h, w], False))
    return total


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


# For the loss, which needs the same ones at every step: making them takes time, and copying them waits for the device.
_kept_row_weights = functools.lru_cache(maxsize=8)(row_weights)
