"""The third stage of Mask R-CNN: a mask for every detected box. He et al., ICCV 2017."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from models.rcnn.box_head import RegionConfig, Samples, pool_regions, roi_align
from runtime.distributed import mean_count
from structures import Instances, Size, Target
from upsamplers import Upsampler

POOLED = 14  # side of a region's features
SIDE = 28  # of a predicted mask


class MaskHead(nn.Module):
    """Four convolutions, x2 upsampling, and a mask of 28 x 28 for each of K classes.

    upsampler: between 14 x 14 and 28 x 28; None: the recipe's transposed convolution. A guided upsampler is guided by
    the pyramid's features of the same region at 28 x 28.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, upsampler: Upsampler | None, regions: RegionConfig
    ) -> None:
        super().__init__()
        self.regions = regions
        widths = [in_channels, *[channels] * 4]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.upsampler: nn.Module = upsampler or nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for layer in [*self.convs, self.classifier, *([] if upsampler else [self.upsampler])]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Boxes [N_i, 4] of every image -> mask logits [R, K, 28, 28]."""
        x = pool_regions(pyramid, boxes, POOLED, self.regions)
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        if isinstance(self.upsampler, Upsampler):
            guide = pool_regions(pyramid, boxes, SIDE, self.regions) if self.upsampler.uses_guide else None
            x = self.upsampler(x, guide=guide)
        else:
            x = F.relu(self.upsampler(x), inplace=True)
        logits: Tensor = self.classifier(x)
        return logits

    def losses(
        self, pyramid: Sequence[Tensor], samples: Sequence[Samples], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the pixels of the true class's mask, over the positive samples."""
        boxes = [some.boxes[: len(some.objects)] for some in samples]
        labels = torch.cat([some.labels[: len(some.objects)] for some in samples])
        truth = torch.cat([_cut_out(*part) for part in zip(boxes, samples, targets, strict=True)])
        logits = self(pyramid, boxes).float()
        own = logits[torch.arange(len(labels), device=labels.device), labels]
        total = F.binary_cross_entropy_with_logits(own, truth, reduction="sum")
        return {"loss_mask": total / (mean_count(len(labels), own) * SIDE**2)}

    @torch.no_grad()
    def probabilities(self, pyramid: Sequence[Tensor], detections: Sequence[Instances]) -> list[Tensor]:
        """The masks [N_i, 28, 28], 0..1, of each image's detections, for their labels, in their boxes."""
        logits = self(pyramid, [some.boxes for some in detections]).float()
        labels = torch.cat([some.labels for some in detections])
        own = logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
        return list(own.split([len(some.labels) for some in detections]))


@torch.no_grad()
def _cut_out(boxes: Tensor, samples: Samples, target: Target) -> Tensor:
    """The true masks [P, 28, 28] of 0 and 1 inside the positives' boxes [P, 4]."""
    assert target.instances is not None
    assert target.instances.masks is not None
    seen, rows = samples.objects.unique(return_inverse=True)  # bitmaps are large: only those that are looked at
    masks = target.instances.masks[seen, None].float()
    rois = torch.cat([rows[:, None].to(boxes.dtype), boxes], dim=1)
    return (roi_align(masks, rois, SIDE, 1.0, sampling=0, aligned=True)[:, 0] >= 0.5).float()


Pasted = tuple[tuple[slice, slice], np.ndarray]  # a part of an image, and a mask [h, w] bool in it


def pasted(probabilities: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> Iterator[Pasted]:
    """Masks [N, 28, 28] laid into their boxes [N, 4] on an image of `size`, one at a time.

    A pixel belongs to a mask if its probability, interpolated bilinearly at the pixel's centre, reaches the threshold.
    """
    for mask, box in zip(probabilities.float().cpu().numpy(), boxes.double().cpu().numpy(), strict=True):
        left, columns = _weights(box[0], box[2], size[1])
        top, rows = _weights(box[1], box[3], size[0])
        yield np.s_[top : top + len(rows), left : left + len(columns)], rows @ (mask @ columns.T) >= threshold


def encode_masks(probabilities: Tensor, boxes: Tensor, size: Size) -> list[bytes]:
    """The masks of `pasted` as COCO run lengths."""
    canvas = np.zeros(size, np.uint8, order="F")  # COCO's run lengths go down the columns
    rles = []
    for window, mask in pasted(probabilities, boxes, size):
        canvas[window] = mask
        rles.append(coco_mask.encode(canvas)["counts"])
        canvas[window] = 0
    return rles


def _weights(low: float, high: float, length: int) -> tuple[int, np.ndarray]:
    """The first of the pixels from `low` to `high`, and how much of each of a mask's 28 pixels each of them takes.

    low, high: a box's edges along one axis of an image of this `length`. Weights [pixels, 28]; 0 beyond the mask.
    """
    # One pixel more at either end, where a probability is below one half already.
    first, last = max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, length)
    positions = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * SIDE - 0.5
    return first, np.clip(1 - np.abs(positions[:, None] - np.arange(SIDE)), 0, None).astype(np.float32)
