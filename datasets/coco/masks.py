"""Masks in COCO's forms: check polygons and run lengths, convert them to compressed run lengths, decode those."""

import math
import reprlib
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from datasets.coco.values import whole_number
from structures import Size

COUNTS = "the counts of its segmentation are neither text nor integers of at least 0"
POLYGON = "a polygon of its segmentation is not an even number (6 or more) of finite numbers"


def encode(segmentation: Any, size: Size) -> bytes:
    """COCO's compressed run lengths of a mask of `size`, from polygons (their union) or either form of run lengths.

    Raises ValueError if the segmentation is malformed: pycocotools itself would access memory out of bounds.
    """
    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation, which masks need")
    parts = mask_utils.frPyObjects([_points(polygon, size) for polygon in segmentation], *size)
    counts: bytes = (parts[0] if len(parts) == 1 else mask_utils.merge(parts))["counts"]
    return counts


def _points(polygon: Any, size: Size) -> np.ndarray:
    """The polygon as an array: x, y, x, y, .."""
    try:
        points = np.array(polygon)
    except (ValueError, OverflowError):
        raise ValueError(POLYGON) from None
    if points.dtype.kind not in "iuf" or points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError(POLYGON)
    if not math.isfinite(sum(polygon)):  # NaN and infinities carry over to the sum
        raise ValueError(POLYGON)
    low, high, side = min(polygon), max(polygon), max(size)
    # pycocotools traces outlines in steps of a fifth of a pixel, so a distant point would need gigabytes.
    if low < -side or high > 2 * side:
        raise ValueError(f"a polygon of its segmentation reaches from {low} to {high}, far outside an image of {side}")
    return points


def _encode_runs(segmentation: dict[str, Any], size: Size) -> bytes:
    if segmentation.get("size") != list(size):
        given = reprlib.repr(segmentation.get("size"))
        raise ValueError(f"its segmentation has size {given} but its image {list(size)} (height, width)")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = decode_runs(counts)
    elif isinstance(counts, list):
        counts = [whole_number(count) for count in counts]
        if not all(count is not None and 0 <= count < 2**31 for count in counts):
            raise ValueError(COUNTS)
        runs = np.array(counts, np.int64)
    else:
        raise ValueError(COUNTS)
    if runs is None or runs.min(initial=0) < 0:
        raise ValueError("the counts of its segmentation are not compressed run lengths")
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"the counts of its segmentation cover {runs.sum()} pixels, its image has {size[0] * size[1]}")
    if isinstance(counts, str):
        return counts.encode()
    encoded: bytes = mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return encoded


def decode_runs(counts: str) -> np.ndarray | None:
    """The run lengths [R] int64 that compressed `counts` encode; None if they are malformed.

    The encoding is that of pycocotools. A number is a sequence of characters, each with 5 bits, lowest bits first, as
    an offset from "0". Bit 32 says that another character follows; bit 16 of the last character says that the number
    is negative. From the fourth number on, each is the difference from the number two places before.
    """
    if not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(last, prepend=-1)
    if lengths.max() > 7:  # 35 bits
        return None
    first = last - lengths + 1
    positions = np.arange(len(codes)) - np.repeat(first, lengths)  # of each character in its number
    runs = np.add.reduceat((codes & 31) << 5 * positions, first)
    runs -= np.where(codes[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode(rles: list[bytes], size: Size) -> np.ndarray:
    """The masks [N, H, W] bool of N compressed run lengths; a view of [N, W, H]: each is stored column by column."""
    if not rles:
        return np.zeros((0, *size), bool)
    bitmaps = mask_utils.decode([{"size": list(size), "counts": rle} for rle in rles])  # [H, W, N], in Fortran order
    masks: np.ndarray = bitmaps.T.view(bool).transpose(0, 2, 1)
    return masks


def area_of(rle: bytes, size: Size) -> float:
    """The number of pixels of the mask. For single masks only: pycocotools 2.0.11 fails on lists of more than 255."""
    return float(mask_utils.area({"size": list(size), "counts": rle}))
