"""Masks as COCO writes them: polygons and run lengths, checked and brought to the compressed form."""

import math
import reprlib
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from structures import Size

POLYGON = "of its segmentation a polygon is not an even number (6 or more) of finite numbers"


def encode(segmentation: Any, size: Size) -> bytes:
    """COCO's compressed run lengths of a mask of `size`, from polygons (their union) or from run lengths of any form.

    Raises ValueError saying what is wrong: pycocotools itself reads and writes beyond its memory on bad input.
    """
    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation, which masks need")
    parts = mask_utils.frPyObjects([_points(polygon, size) for polygon in segmentation], *size)
    counts: bytes = (parts[0] if len(parts) == 1 else mask_utils.merge(parts))["counts"]
    return counts


def _points(polygon: Any, size: Size) -> np.ndarray:
    """The polygon as numbers: x, y, x, y, .."""
    try:
        points = np.array(polygon)
    except (ValueError, OverflowError):
        raise ValueError(POLYGON) from None
    if points.dtype.kind not in "iuf" or points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError(POLYGON)
    if not math.isfinite(sum(polygon)):  # as with NaN anywhere among them
        raise ValueError(POLYGON)
    low, high, side = min(polygon), max(polygon), max(size)
    # Outlines are walked in steps of a fifth of a pixel, so a point far away costs gigabytes.
    if low < -side or high > 2 * side:
        raise ValueError(f"of its segmentation a polygon reaches from {low} to {high}, far out of an image of {side}")
    return points


def _encode_runs(segmentation: dict[str, Any], size: Size) -> bytes:
    if segmentation.get("size") != list(size):
        given = reprlib.repr(segmentation.get("size"))
        raise ValueError(f"its segmentation has size {given} but its image {list(size)} (height, width)")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = decode_runs(counts)
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**31 for count in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("of its segmentation the counts are neither text nor integers from 0 on")
    if runs is None or runs.min(initial=0) < 0:
        raise ValueError("of its segmentation the counts are no compressed run lengths")
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"of its segmentation the counts cover {runs.sum()} pixels, its image has {size[0] * size[1]}")
    if isinstance(counts, str):
        return counts.encode()
    encoded: bytes = mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return encoded


def decode_runs(counts: str) -> np.ndarray | None:
    """The run lengths [R] int64 that compressed `counts` stand for, None if they are malformed.

    The coding is that of pycocotools: a number is characters of 5 bits each, the lowest first, above "0"; 32 says that
    another character follows, 16 in the last one that the number is negative. From the fourth on, numbers are
    differences to the last but one.
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
    places = np.arange(len(codes)) - np.repeat(first, lengths)
    runs = np.add.reduceat((codes & 31) << 5 * places, first)
    runs -= np.where(codes[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode(rles: list[bytes], size: Size) -> np.ndarray:
    """[N, H, W] bool of compressed run lengths."""
    if not rles:
        return np.zeros((0, *size), bool)
    bitmaps = mask_utils.decode([{"size": list(size), "counts": rle} for rle in rles])  # [H, W, N], N the slowest
    return np.ascontiguousarray(bitmaps.transpose(2, 0, 1)).view(bool)


def area_of(rle: bytes, size: Size) -> float:
    """Pixels of the mask. One at a time: pycocotools 2.0.11 fails on lists of more than 255."""
    return float(mask_utils.area({"size": list(size), "counts": rle}))
