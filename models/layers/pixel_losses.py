"""Losses of semantic segmentation, which compare logits, resized to the size of the labels, with the labels.

All of them are computed in float32 even under autocast, and in chunks of rows (`ResizedRows`). They count over the
images of all processes: the gradient does not depend on how the images of a step are divided among them. Here are
cross-entropy and focal loss; ohem.py and dice.py have one more each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from config import Schema
from models.layers.class_weights import ClassWeights, class_weights
from models.layers.resize import kept_row_weights
from runtime.distributed import mean_count
from structures import IGNORE, DatasetInfo, Size

# Logits at full size that are held at a time. On a CPU they should fit into the cache; an accelerator needs large
# kernels.
_CHUNK_ELEMENTS_ON_CPU, _CHUNK_ELEMENTS_ON_ACCELERATOR = 1 << 20, 1 << 26
_VECTOR = 16  # float32 numbers of the largest vector register
_TINY = torch.finfo(torch.float32).tiny


class PixelLossConfig(Schema):
    """weight: factor of this loss in the sum of all."""

    weight: PositiveFloat = 1.0


class PixelLoss(nn.Module, ABC):
    """A loss. name: in the log. weight: its factor. class_weights: [K], of the pixels of each class, or None.

    It has no parameters, and its buffer is not part of a checkpoint.
    """

    class_weights: Tensor | None

    def __init__(self, name: str, weight: float, class_weights: Tensor | None) -> None:
        super().__init__()
        self.name, self.weight = name, weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """The loss of logits [B, K, h, w], float32, for labels [B, H, W], class or IGNORE -> scalar.

        sizes: (height, width) of each image; what lies beyond is padding of the batch, all IGNORE.
        """


def pixel_losses(
    losses: Iterable[nn.Module], logits: Tensor, labels: Tensor, sizes: Sequence[Size]
) -> dict[str, Tensor]:
    """The values of `losses` by name, weighted."""
    if torch.compiler.is_compiling():  # the compiler would only unroll the loops over chunks
        values: dict[str, Tensor] = torch.compiler.disable(_pixel_losses)(losses, logits, labels, sizes)
        return values
    return _pixel_losses(losses, logits, labels, sizes)


def _pixel_losses(losses: Iterable[Any], logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> dict[str, Tensor]:
    device = "cpu" if logits.is_meta else logits.device.type  # models are counted on meta, which has no autocast
    with torch.autocast(device, enabled=False):
        return {loss.name: loss.weight * loss(logits.float(), labels, sizes) for loss in losses}


class ResizedRows:
    """The logits [1, K, h, w] of one image, resized bilinearly to `size` [H, W], a few rows at a time.

    A loss goes through them, and may give the gradient of each chunk back: `gradient` is then that of the logits.
    Neither the resized logits nor their gradient ever exist as a whole.
    """

    def __init__(self, logits: Tensor, size: Size) -> None:
        _, K, h, w = logits.shape
        self._shape, self._size = (h, w, K), size
        # PyTorch resizes the columns first. Then the rows are resized chunk by chunk, as a matrix product with the rows
        # of interpolation weights of the chunk. Classes are the last axis, so that softmax and products use contiguous
        # memory.
        wide = F.interpolate(logits, size=(h, size[1]), mode="bilinear")
        self._wide = wide.permute(0, 2, 3, 1).reshape(h, size[1] * K)
        self._wide_gradient: Tensor | None = None

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of each chunk and its logits [P, K], one for each of its P pixels, row by row."""
        (H, W), K = self._size, self._shape[2]
        on_cpu = self._wide.device.type == "cpu"
        elements = _CHUNK_ELEMENTS_ON_CPU if on_cpu else _CHUNK_ELEMENTS_ON_ACCELERATOR
        chunk_rows = max(1, elements // (W * K))
        for top in range(0, H, chunk_rows):
            chunk = slice(top, min(top + chunk_rows, H))
            matrix, source = self._interpolation(chunk)
            yield chunk, (matrix @ self._wide[source]).view(-1, K)

    def add_gradient(self, chunk: slice, gradient: Tensor) -> None:
        """Add the gradient [P, K] of the logits of a chunk."""
        if self._wide_gradient is None:
            self._wide_gradient = torch.zeros_like(self._wide)
        matrix, source = self._interpolation(chunk)
        self._wide_gradient[source] += matrix.T @ gradient.view(chunk.stop - chunk.start, -1)

    def gradient(self) -> Tensor:
        """The gradient of the logits, [1, K, h, w]."""
        (h, w, K), W = self._shape, self._size[1]
        assert self._wide_gradient is not None
        if torch.are_deterministic_algorithms_enabled():  # on CUDA the operator below is not deterministic
            columns, _, _ = kept_row_weights(W, w, self._wide.device)
            return (columns.T @ self._wide_gradient.view(h, W, K)).permute(2, 0, 1)[None]
        wide_gradient = self._wide_gradient.view(1, h, W, K).permute(0, 3, 1, 2)
        gradient: Tensor = torch.ops.aten.upsample_bilinear2d_backward(wide_gradient, [h, W], [1, K, h, w], False)
        return gradient

    def _interpolation(self, chunk: slice) -> tuple[Tensor, slice]:
        """The interpolation weights of a chunk, and the source rows that they are for."""
        weights, first, last = kept_row_weights(self._size[0], self._shape[0], self._wide.device)
        source = slice(first[chunk.start], last[chunk.stop - 1] + 1)
        return weights[chunk, source], source


# --- cross-entropy and focal loss ------------------------------------------------------------------------------------


class CrossEntropyConfig(PixelLossConfig):
    """Cross-entropy, the mean over all pixels, ignored ones included. class_weights: see `ClassWeights`."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: ClassWeights = None

    def build(self, info: DatasetInfo) -> "PixelLoss":
        """The loss for the classes of `info`."""
        return CrossEntropy("loss_ce", self.weight, class_weights(self.class_weights, info))


class FocalConfig(PixelLossConfig):
    """Cross-entropy in which a pixel counts (1 - p) ** gamma, p the probability of its class: easy pixels count less.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5; here of a softmax, not of sigmoids.
    class_weights: their alpha; see `ClassWeights`.
    """

    name: Literal["focal"] = "focal"
    gamma: PositiveFloat = 2.0
    class_weights: ClassWeights = None

    def build(self, info: DatasetInfo) -> "PixelLoss":
        """The loss for the classes of `info`."""
        return CrossEntropy("loss_focal", self.weight, class_weights(self.class_weights, info), self.gamma)


class CrossEntropy(PixelLoss):
    """Cross-entropy or, with gamma, focal loss."""

    def __init__(self, name: str, weight: float, class_weights: Tensor | None, gamma: float = 0.0) -> None:
        super().__init__(name, weight, class_weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, sizes: Sequence[Size]) -> Tensor:
        """See PixelLoss."""
        return pixel_cross_entropy(logits, labels, sizes, self.class_weights, self.gamma)


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, sizes: Sequence[Size], class_weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy of logits [B, K, h, w], float32, for labels [B, H, W] and `sizes` as in PixelLoss -> scalar.

    A pixel of class c with probability p counts class_weights[c] * (1 - p) ** gamma. The mean is over all pixels of the
    images of all processes, ignored ones included, as in the original SegFormer: their sum, divided by the mean number
    of pixels per process.
    """
    pixels = sum(height * width for height, width in sizes)
    loss: Tensor = _PixelCrossEntropy.apply(logits, labels, mean_count(pixels, logits), class_weights, gamma)
    return loss


class _PixelCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, while each chunk of resized logits is in memory."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, divisor: Tensor, class_weights: Tensor | None, gamma: float
    ) -> Tensor:
        logits = logits.contiguous(memory_format=torch.channels_last)
        gradient = torch.empty_like(logits)
        images = zip(logits.split(1), labels, gradient.split(1), strict=True)
        total = torch.stack([_image_loss(*image, class_weights, gamma) for image in images]).sum()
        ctx.save_for_backward(gradient.div_(divisor))
        return total / divisor

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor, None, None, None, None


def _image_loss(logits: Tensor, labels: Tensor, gradient: Tensor, class_weights: Tensor | None, gamma: float) -> Tensor:
    """Sum the loss over labels [H, W] of one image with logits [1, K, h, w]; write its gradient into `gradient`."""
    rows = ResizedRows(logits, (labels.shape[0], labels.shape[1]))
    total = logits.new_zeros(())
    for chunk, scores in rows.chunks():
        scores = _log_softmax(scores)
        label, counts = flat(labels[chunk])
        if class_weights is not None:
            counts = counts * class_weights[label]
        log_p = scores.gather(1, label)
        slope = counts  # of the loss as a function of -log_p
        if gamma:
            rest = -torch.expm1(log_p)  # 1 - p
            slope = slope * (rest**gamma - gamma * log_p.exp() * rest.clamp(min=_TINY) ** (gamma - 1) * log_p)
            counts = counts * rest**gamma
        total -= (log_p * counts).sum()
        scores.exp_().scatter_add_(1, label, scores.new_full((1, 1), -1.0).expand_as(label)).mul_(slope)
        rows.add_gradient(chunk, scores)
    gradient.copy_(rows.gradient())
    return total


def _log_softmax(scores: Tensor) -> Tensor:
    """The logarithm of the softmax of each row of scores [P, K]."""
    if scores.is_cpu and scores.shape[1] < _VECTOR:  # PyTorch reads rows that are so short one number at a time
        return scores.t().contiguous().log_softmax(dim=0).t().contiguous()
    return scores.log_softmax(dim=1)


def flat(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of labels [..]: the class of each pixel as an index [P, 1], 0 if ignored, and whether it counts, float32."""
    label = labels.reshape(-1, 1).long()
    counts = (label != IGNORE).float()
    return label.clamp_(min=0), counts
