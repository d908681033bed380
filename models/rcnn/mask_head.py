"""The third stage of Mask R-CNN: it predicts a mask for every detected box. He et al., ICCV 2017."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from models.rcnn.box_head import RegionConfig, SampledBoxes, pool_regions, roi_align
from runtime.distributed import mean_count
from structures import Instances, Size, Target
from upsamplers import Upsampler

POOLED = 14  # side of the pooled features of a region
SIDE = 28  # of a predicted mask


class MaskHead(nn.Module):
    """Four convolutions, x2 upsampling, and a mask of 28 x 28 for each of K classes.

    upsampler: from 14 x 14 to 28 x 28; None: a transposed convolution, as in mmdetection's recipe. If the upsampler is
    guided, the guide is the pyramid's features of the same region, pooled at 28 x 28.
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
        """P2..P5 [B, C, H, W] and boxes [N_i, 4] of each image -> mask logits [R, K, 28, 28]."""
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
        self, pyramid: Sequence[Tensor], samples: Sequence[SampledBoxes], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Mean binary cross-entropy over the pixels of the true class's mask, for the positive samples."""
        boxes = [of_image.boxes[: len(of_image.objects)] for of_image in samples]
        labels = torch.cat([of_image.labels[: len(of_image.objects)] for of_image in samples])
        truth = torch.cat([_crop_masks(*part) for part in zip(boxes, samples, targets, strict=True)])
        logits = self(pyramid, boxes).float()
        class_logits = logits[torch.arange(len(labels), device=labels.device), labels]
        total = F.binary_cross_entropy_with_logits(class_logits, truth, reduction="sum")
        return {"loss_mask": total / (mean_count(len(labels), class_logits) * SIDE**2)}

    @torch.no_grad()
    def predict_masks(self, pyramid: Sequence[Tensor], detections: Sequence[Instances]) -> list[Tensor]:
        """For each image, the mask probabilities [N_i, 28, 28] of its detections, for their labels, in their boxes."""
        labels = torch.cat([of_image.labels for of_image in detections])
        masks = self._of_labels(self(pyramid, [of_image.boxes for of_image in detections]), labels)
        return list(masks.split([len(of_image.labels) for of_image in detections]))

    def predict_masks_in_one(self, pyramid: Sequence[Tensor], found: Instances) -> Tensor:
        """`predict_masks` for a single image: [N, 28, 28]."""
        return self._of_labels(self(pyramid, [found.boxes]), found.labels)

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The probabilities [N, 28, 28] of the masks [N, K, 28, 28] for these labels."""
        index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.float().gather(1, index)[:, 0].sigmoid()


@torch.no_grad()
def _crop_masks(boxes: Tensor, samples: SampledBoxes, target: Target) -> Tensor:
    """Crop and resize the true masks to the boxes [P, 4] of the positives -> [P, 28, 28], 0 or 1."""
    assert target.instances is not None
    assert target.instances.masks is not None
    used, rows = samples.objects.unique(return_inverse=True)  # bitmaps are large, so convert only those that are used
    masks = target.instances.masks[used, None].float()
    rois = torch.cat([rows[:, None].to(boxes.dtype), boxes], dim=1)
    return (roi_align(masks, rois, SIDE, 1.0, sampling=0, aligned=True)[:, 0] >= 0.5).float()


PastedMask = tuple[
    tuple[slice, slice], np.ndarray
]  # a window of an image (rows, columns), and a mask [h, w] bool in it


def paste_masks(probabilities: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> Iterator[PastedMask]:
    """Paste masks [N, 28, 28] into their boxes [N, 4] on an image of `size` (height, width), one at a time.

    A pixel is in the mask if the probability, interpolated bilinearly at its centre, is at least the threshold.
    """
    for mask, box in zip(probabilities.float().cpu().numpy(), boxes.double().cpu().numpy(), strict=True):
        left, columns = _interpolation_weights(box[0], box[2], size[1])
        top, rows = _interpolation_weights(box[1], box[3], size[0])
        yield np.s_[top : top + len(rows), left : left + len(columns)], rows @ (mask @ columns.T) >= threshold


def pasted_masks(probabilities: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> Tensor:
    """`paste_masks` in tensors: all masks at once, [N, H, W] bool."""
    columns, rows = (
        _weights_along(boxes[:, axis], boxes[:, axis + 2], size[1 - axis]).to(probabilities.dtype) for axis in (0, 1)
    )
    return rows @ probabilities @ columns.mT >= threshold


def _weights_along(low: Tensor, high: Tensor, length: int) -> Tensor:
    """`_interpolation_weights` of boxes with edges low, high [N] for all pixels of the image -> [N, length, 28]."""
    low, high = low.double()[:, None], high.double()[:, None]
    pixels = torch.arange(length, device=low.device) + 0.5
    positions = (pixels - low) / (high - low).clamp(min=1e-6) * SIDE - 0.5
    return (1 - (positions[:, :, None] - torch.arange(SIDE, device=low.device)).abs()).clamp(min=0)


def encode_masks(probabilities: Tensor, boxes: Tensor, size: Size) -> list[bytes]:
    """Paste masks with `paste_masks` and encode them as COCO run lengths."""
    canvas = np.zeros(size, np.uint8, order="F")  # column-major, like COCO's run lengths
    rles = []
    for window, mask in paste_masks(probabilities, boxes, size):
        canvas[window] = mask
        rles.append(coco_mask.encode(canvas)["counts"])
        canvas[window] = 0
    return rles


def _interpolation_weights(low: float, high: float, length: int) -> tuple[int, np.ndarray]:
    """Linear interpolation of a mask's 28 pixels along one axis: index of the first image pixel, weights [pixels, 28].

    low, high: edges of the box along this axis. length: of the image. Beyond the mask, weights fall to 0.
    """
    # With one more pixel at each end, where the interpolated probability is already below one half.
    first, last = max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, length)
    positions = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * SIDE - 0.5
    return first, np.clip(1 - np.abs(positions[:, None] - np.arange(SIDE)), 0, None).astype(np.float32)
