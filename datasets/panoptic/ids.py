"""Segment ids in COCO's panoptic PNGs: R + 256 G + 65536 B, where 0 is void."""

from pathlib import Path

import cv2
import numpy as np

from datasets.files.images import read_rgb_png
from errors import UserError
from structures import Size

END = 2**24  # ids are below it


def read_ids(path: Path) -> np.ndarray:
    """The ids [H, W] int32 in a PNG. Raises UserError if it is missing, incomplete, or not an 8-bit RGB PNG."""
    red, green, blue = read_rgb_png(path, "R + 256 G + 65536 B").transpose(2, 0, 1)
    ids: np.ndarray = red | np.left_shift(green, 8, dtype=np.int32) | np.left_shift(blue, 16, dtype=np.int32)
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
    flat = ids.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    values, indices = np.unique(flat[starts], return_inverse=True)
    return values, np.repeat(indices, np.diff(starts, append=flat.size)).reshape(ids.shape)


def boxes_of(ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The boxes around segments [N] in ids [H, W], all of which occur: [N, 4], x, y, width, height in pixels."""
    boxes = [cv2.boundingRect((ids == segment).astype(np.uint8)) for segment in segments]
    return np.array(boxes, np.float32).reshape(-1, 4)


def read_segment_ids(path: Path, size: Size, listed: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids [H, W] int32 in a PNG, and the index of each pixel's id in `listed`, int64 [H, W], -1 for void.

    listed: [N], exactly the ids that the PNG must contain beside void. where: what lists them, for errors.
    Raises UserError if the PNG is unusable, or has another size or other ids.
    """
    ids = read_ids(path)
    if ids.shape != size:
        (h, w), (height, width) = ids.shape, size
        what = f"is {w} x {h} pixels (width x height) but {where} is {width} x {height}"
        raise UserError(path, what, "give it the size of its image")
    values, indices = unique_ids(ids)
    found = values[values != 0]
    for unmatched, what in (
        (np.setdiff1d(found, listed), f"is in the PNG but not in the segments_info of {where}"),
        (np.setdiff1d(listed, found), f"is in the segments_info of {where} but not in the PNG"),
    ):
        if len(unmatched):
            more = f" (and {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
            raise UserError(path, f"segment {unmatched[0]} {what}{more}", "make PNG and JSON from the same segments")
    rows = np.full(len(values), -1)
    rows[values != 0] = np.argsort(listed)
    return ids, rows[indices]
