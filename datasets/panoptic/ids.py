"""Segment ids in COCO's panoptic PNGs: R + 256 G + 65536 B, where 0 is void."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.files.images import read_rgb_png
from errors import UserError
from structures import Size

END = 2**24  # ids are below it


def read_ids(path: Path) -> np.ndarray:
    """The ids [H, W] int32 in a PNG. Raises UserError if it is missing, incomplete, or not an 8-bit RGB PNG."""
    colors = cv2.cvtColor(read_rgb_png(path, "R + 256 G + 65536 B"), cv2.COLOR_RGB2RGBA)
    ids: np.ndarray = colors.view("<i4")[:, :, 0]
    ids &= END - 1  # without alpha
    return ids


def encode_ids(ids: np.ndarray) -> bytes:
    """The PNG with ids [H, W] of any integer type, as bytes. Raises ValueError if one is not in 0 to 2**24 - 1."""
    if ids.size and not 0 <= ids.min() <= ids.max() < END:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} do not fit into 0 to {END - 1}")
    colors = np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], axis=-1)  # OpenCV's order: B, G, R
    _, png = cv2.imencode(".png", colors.astype(np.uint8))
    return png.tobytes()


def unique_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values in ids [H, W], ascending, and the index of each pixel's value among them, int64 [H, W].

    Like np.unique with return_inverse, but several times as fast, since it sorts runs of equal pixels.
    """
    runs, lengths = _runs(ids)
    values, indices = np.unique(runs, return_inverse=True)
    return values, np.repeat(indices, lengths).reshape(ids.shape)


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values and the lengths of the runs of equal pixels in ids [H, W], row by row."""
    flat = ids.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)[: flat.size]  # the last pixel of each
    return flat[ends], np.diff(ends, prepend=-1)


def boxes_of(ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The boxes around segments [N] in ids [H, W], all of which occur: [N, 4], x, y, width, height in pixels."""
    boxes = [cv2.boundingRect((ids == segment).astype(np.uint8)) for segment in segments]
    return np.array(boxes, np.float32).reshape(-1, 4)


class SegmentMap(NamedTuple):
    """ids: [H, W] int32. rows, lengths: of each run of equal ids, row by row, the index in `listed`, -1 for void."""

    ids: np.ndarray
    rows: np.ndarray
    lengths: np.ndarray

    def spread(self, values: np.ndarray, void: Any) -> np.ndarray:
        """A map [H, W] with the value of each pixel's segment. values: of the listed segments. void: of the rest."""
        values = np.append(values, np.array(void, values.dtype))
        return np.repeat(values[self.rows], self.lengths).reshape(self.ids.shape)


def read_segment_map(path: Path, size: Size, listed: np.ndarray, where: str) -> SegmentMap:
    """The segments in a PNG.

    listed: [N], exactly the ids that the PNG must contain beside void. where: what lists them, for errors.
    Raises UserError if the PNG is unusable, or has another size or other ids.
    """
    ids = read_ids(path)
    if ids.shape != size:
        (h, w), (height, width) = ids.shape, size
        what = f"is {w} x {h} pixels (width x height) but {where} is {width} x {height}"
        raise UserError(path, what, "give it the size of its image")
    values, lengths = _runs(ids)
    known = np.append(listed, 0)
    order = known.argsort()
    rows = order[np.searchsorted(known, values, sorter=order).clip(max=len(listed))]
    unknown = np.unique(values[known[rows] != values])
    missing = np.sort(listed[np.bincount(rows, minlength=len(known))[:-1] == 0])
    for unmatched, what in (
        (unknown, f"is in the PNG but not in the segments_info of {where}"),
        (missing, f"is in the segments_info of {where} but not in the PNG"),
    ):
        if len(unmatched):
            more = f" (and {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
            raise UserError(path, f"segment {unmatched[0]} {what}{more}", "make PNG and JSON from the same segments")
    return SegmentMap(ids, np.where(rows == len(listed), -1, rows), lengths)
