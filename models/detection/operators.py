"""torchvision's operators on boxes, imported when they are first called.

Importing torchvision takes as long as importing PyTorch; a command that has only to say what is wrong with its YAML, or
that trains no detector, need not wait for it.
"""

from torch import Tensor

from structures import Size


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression of boxes [N, 4] by scores [N] within groups [N]: indices of those kept, best first."""
    from torchvision.ops import batched_nms

    kept: Tensor = batched_nms(boxes, scores, groups, iou)
    return kept


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and [M, 4] -> [N, M]."""
    from torchvision.ops import box_iou

    iou: Tensor = box_iou(boxes, others)
    return iou


def roi_align(features: Tensor, rois: Tensor, size: Size | int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """RoIAlign (He et al., ICCV 2017) of features [B, C, H, W]; rois [N, 5], the image's number first -> [N, C, h, w].

    scale: of features by pixels of the image. sampling: points of a bin along an axis, 0 for as many as it has pixels.
    aligned: pixel centres lie at halves.
    """
    from torchvision.ops import roi_align

    aligned_features: Tensor = roi_align(features, rois, size, scale, sampling, aligned)
    return aligned_features
