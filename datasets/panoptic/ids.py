"""Segment ids as COCO's panoptic PNGs hold them: R + 256 G + 65536 B, where 0 is void."""

from pathlib import Path

import cv2
import numpy as np

from datasets.files.images import read_rgb_png
from errors import UserError
from structures import Size

END = 2**24  # no id reaches it


def read_ids(path: Path) -> np.ndarray:
    """The ids [H, W] int32 in a PNG. Raises UserError if it is missing, incomplete, or no 8-bit RGB PNG."""
    red, green, blue = read_rgb_png(path, "R + 256 G + 65536 B").transpose(2, 0, 1)
    ids: np.ndarray = red | np.left_shift(green, 8, dtype=np.int32) | np.left_shift(blue, 16, dtype=np.int32)
    return ids


def encode_ids(ids: np.ndarray) -> bytes:
    """The PNG of ids [H, W], of any integer type. Raises ValueError if one is not from 0 to 2**24 - 1."""
    if ids.size and not 0 <= ids.min() <= ids.max() < END:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} do not fit into 0 to {END - 1}")
    colors = np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], axis=-1)  # OpenCV takes them in this order
    _, png = cv2.imencode(".png", colors.astype(np.uint8))
    return png.tobytes()


def unique_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur in ids [H, W], ascending, and of every pixel the index among them, int64 [H, W].

    As np.unique, but several times as fast, since it sorts runs of pixels.
    """
    flat = ids.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    values, places = np.unique(flat[starts], return_inverse=True)
    return values, np.repeat(places, np.diff(starts, append=flat.size)).reshape(ids.shape)


def read_segment_ids(path: Path, size: Size, listed: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids [H, W] int32 in a PNG, and of every pixel the index in `listed`, int64 [H, W], -1 where it is void.

    listed: [N] the ids that must occur, and no other. where: what lists them, for errors.
    Raises UserError if the PNG is unusable, or has not that size and these ids.
    """
    ids = read_ids(path)
    if ids.shape != size:
        (h, w), (height, width) = ids.shape, size
        what = f"is {w} x {h} pixels (width x height) but {where} is {width} x {height}"
        raise UserError(path, what, "give it the size of its image")
    values, places = unique_ids(ids)
    found = values[values != 0]
    for alone, what in (
        (np.setdiff1d(found, listed), f"is in it but not in the segments_info of {where}"),
        (np.setdiff1d(listed, found), f"is in the segments_info of {where} but not in it"),
    ):
        if len(alone):
            more = f" (and {len(alone) - 1} more likewise)" if len(alone) > 1 else ""
            raise UserError(path, f"segment {alone[0]} {what}{more}", "make PNG and JSON from the same segments")
    rows = np.full(len(values), -1)
    rows[values != 0] = np.argsort(listed)
    return ids, rows[places]
