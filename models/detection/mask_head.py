"""The third stage of Mask R-CNN: a mask for every detected box. He et al., ICCV 2017."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.ops import roi_align

from models.detection.box_head import Samples
from models.detection.matching import mean_count
from models.detection.regions import RegionConfig, pool_regions
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
    masks = target.instances.masks[:, None].float()
    rois = torch.cat([samples.objects[:, None].to(boxes.dtype), boxes], dim=1)
    return (roi_align(masks, rois, SIDE, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5).float()


def encode_masks(probabilities: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> list[bytes]:
    """Masks [N, 28, 28] laid into their boxes [N, 4] on an image of `size`, as COCO run lengths, one at a time.

    A pixel belongs to a mask if its probability, interpolated bilinearly at the pixel's centre, reaches the threshold.
    """
    canvas = np.zeros(size, np.uint8, order="F")
    rles = []
    for mask, box in zip(probabilities.float().cpu(), boxes.float().cpu(), strict=True):
        # Beyond the box the mask falls below one half within less than a pixel of the network's 28.
        left, top = (max(int(edge) - 1, 0) for edge in box[:2].floor().tolist())
        right, bottom = (
            min(int(edge) + 1, side) for edge, side in zip(box[2:].ceil().tolist(), size[::-1], strict=True)
        )
        window = np.s_[top:bottom, left:right]
        canvas[window] = _sampled(mask, box, (top, bottom), (left, right)) >= threshold
        rles.append(coco_mask.encode(canvas)["counts"])
        canvas[window] = 0
    return rles


def _sampled(mask: Tensor, box: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """The mask, stretched over its box, at the centres of pixels of these rows and columns; 0 outside the box."""
    positions = [
        (torch.arange(first, last) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]).clamp(min=1e-6) * 2 - 1
        for axis, (first, last) in enumerate([columns, rows])
    ]
    grid = torch.stack(torch.meshgrid(*positions, indexing="xy"), dim=-1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0].numpy()
