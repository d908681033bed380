"""Masks in COCO's forms: check polygons and run lengths, convert them to compressed run lengths, decode those."""

import math
import reprlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from datasets.coco.values import whole_number
from structures import Size

COUNTS = "the counts of its segmentation are neither text nor integers of at least 0"
POLYGON = "a polygon of its segmentation is not an even number (6 or more) of finite numbers"


def encode(segmentation: Any, size: Size) -> bytes:
    """COCO's compressed run lengths of a mask of `size`, from polygons (their union) or either form of run lengths.

    Raises ValueError if the segmentation is malformed.
    """
    outline = check_outline(segmentation, size)
    return outline if isinstance(outline, bytes) else union(outline, size)


def check_outline(segmentation: Any, size: Size) -> bytes | list[np.ndarray]:
    """Compressed run lengths, or polygons as arrays x, y, x, y, .. of float64: whichever the segmentation has.

    Raises ValueError if it is malformed: pycocotools itself would access memory out of bounds.
    """
    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation, which masks need")
    return [_points(polygon, size) for polygon in segmentation]


def union(polygons: list[np.ndarray], size: Size) -> bytes:
    """The compressed run lengths of the union of polygons."""
    parts = mask_utils.frPyObjects(polygons, *size)
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
    return points.astype(np.float64, copy=False)


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


# --- the masks of a whole file ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlines:
    """N masks of P parts: polygons, of which a mask may have several, or run lengths, whichever the file has.

    Run lengths are made of polygons when a mask is asked for: for all of a file that would take as long as to parse it.
    content: [T] uint8, the parts in the order of the file: polygons as float64 x, y, x, y, .., run lengths compressed.
    starts: [P + 1] int64, where each part begins. is_polygon: [P] bool. parts: [N, 2] int64, the first part of each
    mask, and the one after its last.
    """

    content: np.ndarray
    starts: np.ndarray
    is_polygon: np.ndarray
    parts: np.ndarray

    def rle(self, row: int, size: Size) -> bytes:
        """The compressed run lengths of a mask, whose image has this size."""
        first, end = self.parts[row].tolist()
        parts = [self.content[self.starts[part] : self.starts[part + 1]] for part in range(first, end)]
        if not self.is_polygon[first]:
            return parts[0].tobytes()
        return union([part.view(np.float64) for part in parts], size)


class OutlineList:
    """Collects the masks of a file one by one."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._ends, self._is_polygon, self._last_parts = array("q"), bytearray(), array("q")

    def append(self, outline: bytes | list[np.ndarray]) -> None:
        """Add a mask, from `masks.check_outline`."""
        for part in [outline] if isinstance(outline, bytes) else outline:
            self._content += part if isinstance(part, bytes) else part.tobytes()
            self._ends.append(len(self._content))
            self._is_polygon.append(not isinstance(part, bytes))
        self._last_parts.append(len(self._ends))

    def in_order(self, order: np.ndarray) -> Outlines:
        """All masks, the one in row `order[i]` as mask i."""
        ends = np.array(self._last_parts, np.int64)
        return Outlines(
            content=np.frombuffer(self._content, np.uint8),
            starts=np.array([0, *self._ends], np.int64),
            is_polygon=np.frombuffer(self._is_polygon, np.bool_),
            parts=np.stack([np.insert(ends, 0, 0)[:-1], ends], axis=1)[order],
        )
