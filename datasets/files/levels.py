"""Pictures of more than 8 bits per channel: read their values, and map a range of them to 0..255."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from datasets.files.jpeg import captured_stderr
from datasets.files.reading import reporting_damage
from errors import UserError

ImageRange = tuple[float, float] | Literal["full"] | None
BITS_PER_SAMPLE = 258  # a tag of TIFF
FEW_LEVELS = 32
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


def is_deep(data: bytes, header: Image.Image) -> bool:
    """Whether the picture has more than 8 bits per channel."""
    if header.format == "PNG":
        return data[24] > 8  # the bit depth in its header
    return header.format == "TIFF" and max(header.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8  # type: ignore[attr-defined]


def read_levels(path: Path, data: bytes, header: Image.Image) -> np.ndarray:
    """The values as stored, [H, W] or RGB [H, W, 3], without transparency. Raises UserError if that is impossible."""
    with reporting_damage(path):
        header.load()
        if header.mode in ("I", "F") or header.mode.startswith("I;16"):
            return np.asarray(header)
        upper_bits = np.asarray(header.convert("RGB"))  # Pillow reads no more than these
    with captured_stderr():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is not None and values.ndim == 3:
        values = values[..., 2::-1]
        if values.dtype == np.uint16 and np.array_equal(np.right_shift(values, 8), upper_bits):
            return values
    raise UserError(path, f"has {header.mode} pixels of more than 8 bits in a rare form", "convert it to 16-bit RGB")


def to_bytes(path: Path, values: np.ndarray, image_range: ImageRange) -> np.ndarray:
    """`values` as uint8 of the same shape, see `read_image`.

    Raises UserError if image_range does not say how: if it is None and less than FEW_LEVELS of 256 grey levels would be
    left, or if there are more than 16 bits and no numbers.
    """
    if image_range is None or isinstance(image_range, str):
        if values.dtype.itemsize > 2:
            what = f"has {8 * values.dtype.itemsize} bits per pixel, of no known range"
            raise UserError(path, what, advice([extremes(values)], with_full=False))
        if image_range is None and is_narrow(values):
            what = "has 16 bits per channel, but uses so few of them that 8 bits would leave less than"
            raise UserError(path, f"{what} {FEW_LEVELS} grey levels", advice([extremes(values)]))
        return np.right_shift(values, 8).astype(np.uint8)
    low, high = image_range
    width = high - low + (1 if values.dtype.kind in "iu" else 0)  # so that 0 to 65535 gives the upper 8 bits
    return ((np.nan_to_num(values).astype(np.float64) - low) * (256 / width)).clip(0, 255).astype(np.uint8)


def is_narrow(values: np.ndarray) -> bool:
    """Whether the upper 8 of 16 bits have less than FEW_LEVELS levels, and the lower bits make a difference."""
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=2**16))
    left = len(np.unique(used >> 8))
    return left < FEW_LEVELS and left < len(used)


def extremes(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value; NaN and infinite ones do not count."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def advice(ranges: Sequence[tuple[float, float]], with_full: bool = True) -> str:
    """The advice to set data.image_range. ranges: the extremes of some pictures, for the example in it."""
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    text = f"set 'data.image_range=[{low:.6g}, {high if high > low else low + 1:.6g}]' (the values of black and white)"
    return text + (", or data.image_range=full if they are just dark" if with_full else "")


def oriented(header: Image.Image, pixels: np.ndarray) -> np.ndarray:
    """`pixels`, uint8 [H, W] or [H, W, 3], as displayed by the orientation in the EXIF data of `header`."""
    turn = TURNS.get(header.getexif().get(0x0112, 1))
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
