"""Read images and label maps, or say in one line why a file is unusable.

JPEGs are decoded by OpenCV, as in the published recipes; decoders differ by a grey level here and there. Pillow reads
headers and all other formats, which are lossless.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from errors import UserError

MAX_PIXELS = 178_956_970  # beyond this Pillow, too, takes a file for a decompression bomb
REPLACE = "replace or remove the file"


def read_image(path: Path) -> np.ndarray:
    """The picture as displayed (EXIF orientation applied): RGB uint8 [H, W, 3].

    Grey is repeated, transparency dropped, palettes and CMYK converted, 16 bits cut to the upper 8.
    Raises UserError if the file is missing, incomplete, not a picture, or too large.
    """
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format in ("JPEG", "MPO"):
        if not _is_complete_jpeg(data):
            raise UserError(path, "the image is truncated", REPLACE)
        if header.mode in ("L", "RGB"):
            return _decode_jpeg(path, data)
    with damage_reported(path):
        picture = ImageOps.exif_transpose(header)
    return _as_rgb(path, picture)


def read_label_map(path: Path) -> np.ndarray:
    """The values of a single-channel or palette PNG, as stored: [H, W], uint8 or uint16.

    Raises UserError if the file is missing, incomplete, not a PNG, too large, or has colours instead of indices.
    """
    data, header = _read_png_header(path)
    if header.mode not in ("1", "L", "P", "I", "I;16"):
        what = f"has pixels of kind {header.mode} where one class index per pixel is expected"
        raise UserError(path, what, "store class indices in a single-channel (or palette) PNG of 8 or 16 bits")
    with damage_reported(path):
        values = np.asarray(header)
    bits = data[24]  # of the PNG header
    if header.mode == "L" and bits < 8:
        values = values // (255 // (2**bits - 1))  # Pillow has spread them over 0..255
    return values.astype(np.uint16 if bits == 16 else np.uint8)


def read_rgb_png(path: Path, meaning: str) -> np.ndarray:
    """The pixels of an RGB PNG of 8 bits, as stored: uint8 [H, W, 3]. meaning: of the colours, for the error.

    Raises UserError if the file is missing, incomplete, too large, not a PNG, or one of another kind.
    """
    data, header = _read_png_header(path)
    bits, colors = data[24:26]  # of the PNG header
    if (bits, colors) != (8, 2):
        kind = header.mode if colors != 2 else f"RGB with {bits} bits each"
        raise UserError(path, f"has pixels of kind {kind} where {meaning} is expected", "store it in an 8-bit RGB PNG")
    with damage_reported(path):
        return np.asarray(header)


def _read_png_header(path: Path) -> tuple[bytes, Image.Image]:
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format != "PNG":
        raise UserError(path, f"is a {header.format} file", "store labels as PNG, which keeps them exactly")
    return data, header


def write_png(path: Path, values: np.ndarray) -> None:
    """Write [H, W] of 8 or 16 bits, making its folder. Raises UserError if that is impossible."""
    _, png = cv2.imencode(".png", values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.tobytes())
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "make room or name another folder") from None


def read_bytes(path: Path) -> bytes:
    """What the file holds. Raises UserError if it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(path, "no such file", "restore it or remove its counterpart") from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the disk and the permissions") from None
    if not data:
        raise UserError(path, "the file is empty", REPLACE)
    return data


def read_header(path: Path, data: bytes) -> Image.Image:
    """The image in `data`, of which no pixel is decoded yet. Raises UserError if it is none, or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            header = Image.open(BytesIO(data))
    except Image.DecompressionBombError:
        raise UserError(path, f"has more than {MAX_PIXELS} pixels", "shrink it or cut it into tiles") from None
    except Exception:  # Pillow's format plugins raise many kinds, all of which mean this
        raise UserError(path, "is not a readable image", REPLACE) from None
    return header


def _is_complete_jpeg(data: bytes) -> bool:
    """Whether an end-of-image marker follows the start of the compressed data.

    Decoders fill what is missing with grey instead of failing. A thumbnail in the metadata has such a marker of its
    own, so the search begins behind the metadata segments.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return data.find(b"\xff\xd9", position) >= 0


def _decode_jpeg(path: Path, data: bytes) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(path, "is damaged and cannot be decoded", REPLACE)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Whatever goes wrong while pixels are decoded is a UserError that names the file."""
    try:
        yield
    except Exception as error:  # as above
        raise UserError(path, f"is damaged or truncated ({error})", REPLACE) from None


def _as_rgb(path: Path, picture: Image.Image) -> np.ndarray:
    if picture.mode in ("I", "F"):
        raise UserError(path, "has 32 bits per pixel", "convert it to 8-bit RGB")
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns about transparent palette entries
    return np.array(picture.convert("RGB"))
