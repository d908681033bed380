"""The boundary of a mask or of each region of a map: the pixels near its edge. Cheng et al., "Boundary IoU", CVPR 2021.

A mask is eroded by a square of side 2 * width + 1, the area outside the image counting as not in the mask; what is
eroded is the boundary. That equals the authors' erosion, `width` times by a 3 x 3 square after padding by one pixel.
"""

from collections.abc import Iterable
from math import hypot
from typing import Annotated

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pydantic import Field

from structures import IGNORE, Size

BoundaryRatio = Annotated[float, Field(gt=0, lt=1)]  # the width of boundaries as a fraction of the image diagonal


def boundary_width(size: Size, ratio: float) -> int:
    """The width of the band in pixels: `ratio` times the diagonal, rounded, at least 1."""
    return max(round(ratio * hypot(*size)), 1)


def boundary_band(labels: np.ndarray, width: int) -> np.ndarray:
    """The label map [H, W], int16 or float32, with IGNORE farther than `width` from other labels and from the border.

    This keeps the pixels whose square has more than one label, that is, with unequal labels among any four neighbours
    (2 x 2) in it. So all labels are looked at together, in maps of single bytes.
    """
    height, columns = labels.shape
    equal = np.zeros((height + 1, columns + 1), np.uint8)  # at (y, x): 255 if the four up to pixel (y, x) are equal
    corner = labels[:-1, :-1]
    differ = labels[1:, 1:] != corner
    differ |= labels[1:, :-1] != corner
    differ |= labels[:-1, 1:] != corner
    np.subtract(differ.view(np.uint8), 1, out=equal[1:-1, 1:-1])
    square, anchor = np.ones((2 * width, 2 * width), np.uint8), (width - 1, width - 1)
    equal = cv2.erode(equal, square, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=255)[:-1, :-1]
    if labels.dtype == np.int16:
        return labels | equal.view(np.int8)  # 255 becomes IGNORE, -1, all of whose bits are set
    return np.where(equal, labels.dtype.type(IGNORE), labels)


def boundary_rles(rles: Iterable[bytes], size: Size, ratio: float) -> list[bytes]:
    """The boundaries of masks, all as the `counts` of COCO's run lengths. One bitmap exists at a time."""
    return [_boundary_rle({"size": list(size), "counts": counts}, boundary_width(size, ratio)) for counts in rles]


def _boundary_rle(rle: dict[str, object], width: int) -> bytes:
    mask = coco_mask.decode(rle)
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle))
    inside = mask[y : y + h, x : x + w]
    if inside.size:
        square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        inside -= cv2.erode(np.ascontiguousarray(inside), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    counts: bytes = coco_mask.encode(mask)["counts"]
    return counts
