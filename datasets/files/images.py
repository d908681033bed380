"""Read images and label maps, or say in one line why a file is unusable.

OpenCV decodes JPEGs, as in the published recipes (pixels of two decoders can differ by one grey level). Pillow reads
headers and all other formats.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import ImageFile, ImageOps

from datasets.files.jpeg import captured_stderr, decode_jpeg
from datasets.files.levels import (
    FEW_LEVELS,
    ImageRange,
    advice,
    extremes,
    is_deep,
    is_narrow,
    oriented,
    read_levels,
    to_bytes,
)
from datasets.files.png import png_pieces
from datasets.files.reading import check_image, open_image, read_bytes, read_header, reporting_damage
from errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path, image_range: ImageRange = None) -> np.ndarray:
    """The image as displayed (EXIF orientation applied, unless the EXIF data are damaged): RGB uint8 [H, W, 3].

    Grey is repeated, transparency dropped, palettes and CMYK are converted. If there are several frames, the first is
    read. The format is detected from the content, not from the file name.
    image_range: for pictures of more than 8 bits per channel, the values (low, high) that become 0 and 255; values
    beyond them are clipped. "full", and also None, for 16 bits: 0 to 65535, which are the upper 8 bits.
    Raises UserError if the file is missing, incomplete, damaged, too large, or not in one of FORMATS; if it has more
    than 16 bits and no range is given; or if image_range is None and hardly any grey levels would be left. Damage that
    leaves a valid file is detected in PNGs only, since they have checksums.
    """
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format in ("JPEG", "MPO"):
        pixels = decode_jpeg(path, data)
        if header.mode in ("L", "RGB"):
            return pixels  # CMYK is decoded again: Pillow converts it better, but does not report damage
    if is_deep(data, header):
        pixels = to_bytes(path, read_levels(path, data, header), image_range)
        with reporting_damage(path):
            return _three_channels(oriented(header, pixels))
    with reporting_damage(path):
        picture = ImageOps.exif_transpose(header)
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # Pillow warns about transparent palette entries when converting to RGB
    return np.array(picture.convert("RGB"))


def check_image_range(paths: Sequence[Path], image_range: ImageRange) -> None:
    """Raise UserError if these images, a sample of a dataset, show that it needs another `image_range` than None.

    So it is if most of its images of 16 bits would keep hardly any grey levels, or if any has more bits.
    """
    if image_range is not None:
        return
    deep, narrow = 0, {}
    for path in paths:
        data = read_bytes(path)
        header = read_header(path, data)
        if is_deep(data, header):
            deep += 1
            values = read_levels(path, data, header)
            if values.dtype.itemsize > 2:
                to_bytes(path, values, None)  # raises the error
            if is_narrow(values):
                narrow[path] = extremes(values)
    if len(narrow) > deep / 2:
        what = (
            f"and {len(narrow) - 1} more of {len(paths)} images have 16 bits per channel, but use so few of them that"
        )
        what += f" 8 bits would leave less than {FEW_LEVELS} grey levels"
        raise UserError(next(iter(narrow)), what, advice(list(narrow.values())))


def read_label_map(path: Path) -> np.ndarray:
    """The values of a single-channel or palette PNG, as stored: [H, W], uint8 or uint16.

    Raises UserError if the file is missing, incomplete, not a PNG, too large, or contains colours instead of indices.
    """
    header, data = check_image(path, read_bytes(path))
    _require_png(path, header)
    if header.mode not in ("1", "L", "P", "I", "I;16"):
        what = f"has pixels of kind {header.mode} where one class index per pixel is expected"
        raise UserError(path, what, "store class indices in a single-channel (or palette) PNG of 8 or 16 bits")
    bits, color_type = data[24:26]  # of the PNG header; 0 is grey
    with reporting_damage(path):
        if (bits, color_type) == (8, 0):
            return _decode(data, cv2.IMREAD_GRAYSCALE)
        values = np.asarray(open_image(data))
    if header.mode == "L" and bits < 8:
        values = values // (255 // (2**bits - 1))  # Pillow has scaled them to 0..255
    return values.astype(np.uint16 if bits == 16 else np.uint8)


def read_rgb_png(path: Path, meaning: str) -> np.ndarray:
    """The pixels of an 8-bit RGB PNG, as stored: uint8 [H, W, 3]. meaning: what the colours encode, for the error.

    Raises UserError if the file is missing, incomplete, too large, not a PNG, or a PNG of another kind.
    """
    header, data = check_image(path, read_bytes(path))
    _require_png(path, header)
    bits, color_type = data[24:26]  # of the PNG header; 2 is RGB
    if (bits, color_type) != (8, 2):
        kind = header.mode if color_type != 2 else f"RGB with {bits} bits each"
        raise UserError(path, f"has pixels of kind {kind} where {meaning} is expected", "store it in an 8-bit RGB PNG")
    with reporting_damage(path):
        return _decode(data, cv2.IMREAD_COLOR_RGB)


def _decode(data: bytes, kind: int) -> np.ndarray:
    """The pixels of a PNG that has been checked, by OpenCV, which is faster than Pillow. Raises ValueError."""
    with captured_stderr():  # libpng warns about colour profiles and surplus data, which do not matter here
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("its pixels cannot be decoded")
    return pixels


def _require_png(path: Path, header: ImageFile.ImageFile) -> None:
    if header.format != "PNG":
        raise UserError(path, f"is a {header.format} file", "store labels as PNG, which keeps them exactly")


def write_png(
    path: Path, values: np.ndarray, text: Mapping[str, str] = MappingProxyType({}), coloured: bool = False
) -> None:
    """Write values [H, W], uint8 or uint16, and make the folder if needed. Raises UserError if that is impossible.

    text: keys and values (Latin-1) of `tEXt` chunks, which Pillow and other readers offer beside the pixels.
    coloured: give 8 bits a palette, since small numbers look black.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(png_pieces(values, text, coloured))
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "make room or name another folder") from None


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2))
