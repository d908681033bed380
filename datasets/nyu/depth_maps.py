"""Read and resize 16-bit depth maps, or say in one line why a file is unusable."""

from pathlib import Path

import numpy as np

from datasets.files.reading import read_bytes, read_header, reporting_damage
from errors import UserError
from structures import Size

KB_SIZE = 352, 1216  # (height, width)
KB_CROP = "kb: the lowest 352 rows and the middle 1216 columns of images and depth maps"
SATURATED = 2**16 - 1  # some sensors store it where they cannot measure


def read_depth_values(path: Path) -> np.ndarray:
    """The values of a single-channel 16-bit PNG, as stored: [H, W] uint16.

    Raises UserError if the file is missing, incomplete, not a PNG, too large, or has colours or 8 bits per pixel.
    """
    return read_depth_file(path)[0]


def read_depth_file(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The values as in `read_depth_values`, and the texts that the PNG has beside them (`tEXt`), by key."""
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format != "PNG":
        raise UserError(path, f"is a {header.format} file", "store depth as a 16-bit PNG, which keeps it exactly")
    bits, has_colours = data[24], data[25] != 0  # of the PNG header; a palette counts as colours
    if has_colours:
        what = f"has pixels of kind {header.mode} where one distance per pixel is expected"
        raise UserError(path, what, "store depth in a single-channel 16-bit PNG, not as a coloured picture")
    if bits != 16:
        what = f"has {bits} bits per pixel, at most {2**bits} different distances"
        raise UserError(path, what, "take the 16-bit original: an 8-bit copy has lost the depth")
    with reporting_damage(path):
        values = np.asarray(header).astype(np.uint16)
        return values, {str(key): str(text) for key, text in header.info.items() if isinstance(text, str)}


def resize_depth(path: Path, depth: np.ndarray, size: Size) -> np.ndarray:
    """`depth` [h, w] at `size`, (H, W): each pixel gets the value of the nearest one, so that holes keep their shape.

    Raises UserError, naming `path`, if the shapes differ by more than 5 % in their ratio of width to height.
    """
    (h, w), (height, width) = depth.shape, size
    if abs(np.log(w * height / (h * width))) > np.log(1.05):
        what = f"is {w} x {h} pixels (width x height), another shape than that of its image, {width} x {height}"
        raise UserError(path, what, "give it the orientation of its image, and cut both in the same way")
    rows, columns = ((2 * np.arange(height) + 1) * h // (2 * height), (2 * np.arange(width) + 1) * w // (2 * width))
    return depth[rows[:, None], columns]


def kb_window(path: Path, size: Size) -> tuple[slice, slice]:
    """The rows and columns that KITTI's benchmark (Uhrig et al., 3DV 2017) cuts out of images of `size`, (H, W).

    Raises UserError, naming `path`, if that is smaller.
    """
    top, left = size[0] - KB_SIZE[0], (size[1] - KB_SIZE[1]) // 2
    if top < 0 or left < 0:
        what = f"is {size[1]} x {size[0]} pixels (width x height), and KITTI's crop takes {KB_SIZE[1]} x {KB_SIZE[0]}"
        raise UserError(path, what, "set data.kb_crop=false, or take the original images")
    return slice(top, size[0]), slice(left, left + KB_SIZE[1])
