"""Features of regions of the pyramid (RoIAlign; He et al., "Mask R-CNN", ICCV 2017)."""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from config import Schema
from models.detection.boxes import area
from models.detection.operators import roi_align

STRIDES = (4, 8, 16, 32)  # of P2..P5; P6 serves proposals only
FINEST_SIDE = 56  # regions of twice this side and more are looked at on P3, of four times on P4, and so on


class RegionConfig(Schema):
    """aligned: pixel centres at +1/2. sampling_ratio: samples a bin along each side; 0: as many as it has pixels.

    torchvision's own detectors have false and 2.
    """

    aligned: bool = True
    sampling_ratio: NonNegativeInt = 0


def pool_regions(pyramid: Sequence[Tensor], boxes: Sequence[Tensor], size: int, config: RegionConfig) -> Tensor:
    """Features [R, C, size, size] of the boxes [N_i, 4] of every image i, one image after another.

    Each is taken from the one level of P2..P5 [B, C, H, W] that fits the box's area.
    """
    everything = torch.cat(list(boxes))
    image = torch.cat([torch.full_like(some[:, :1], index) for index, some in enumerate(boxes)])
    rois = torch.cat([image, everything], dim=1)
    levels = (area(everything).sqrt() / FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1)
    order = levels.argsort(stable=True)
    counts = torch.bincount(levels.long(), minlength=len(STRIDES)).tolist()
    pooled = [
        roi_align(features, some, size, 1 / stride, config.sampling_ratio, config.aligned)
        for features, some, stride in zip(pyramid, rois[order].split(counts), STRIDES, strict=False)
    ]
    return torch.cat(pooled)[order.argsort()]
