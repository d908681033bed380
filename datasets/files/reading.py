"""Read the bytes and the header of an image file, or say in one line why it is unusable."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFile

from datasets.files.png import checked_png
from errors import UserError

MAX_PIXELS = 178_956_970  # Pillow's own limit: a larger image counts as a decompression bomb
MAX_BYTES = 2**31  # largest file; MAX_PIXELS uncompressed pixels need less
PIXELS_PER_BYTE = 8 * 1032  # upper bound for PNG and JPEG: 1 bit per pixel, and deflate compresses 1032 : 1 at best
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")  # for some other formats Pillow starts external programs
REPLACE = "replace or remove the file"


def read_bytes(path: Path) -> bytes:
    """The content of the file. UserError if it is missing, unreadable, empty, too large, or not regular (a pipe)."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # reading it might never end
            raise UserError(path, "is not a regular file", REPLACE)
        if status.st_size > MAX_BYTES:
            raise UserError(path, f"has {status.st_size} bytes, more than {MAX_BYTES}", REPLACE)
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(path, "no such file", "restore it or remove its counterpart") from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the disk and the permissions") from None
    if not data:
        raise UserError(path, "the file is empty", REPLACE)
    return data


def read_header(path: Path, data: bytes) -> ImageFile.ImageFile:
    """The image in `data`, with no pixel decoded yet. Raises UserError if it is not an image, damaged, or too large."""
    header, checked = check_image(path, data)
    return header if checked is data else open_image(checked)


def check_image(path: Path, data: bytes) -> tuple[ImageFile.ImageFile, bytes]:
    """The header, and the data with the same content after all checks: see `read_header` and `checked_png`."""
    try:
        header = open_image(data)
    except Image.DecompressionBombError:
        raise UserError(path, f"has more than {MAX_PIXELS} pixels", "shrink it or cut it into tiles") from None
    except Exception:  # Pillow's format plugins raise many types of exceptions for this
        raise UserError(path, f"is not a readable image ({', '.join(FORMATS)})", REPLACE) from None
    if header.format in ("JPEG", "MPO", "PNG") and header.width * header.height > PIXELS_PER_BYTE * len(data):
        what = f"is damaged or truncated ({len(data)} bytes cannot hold {header.width} x {header.height} pixels)"
        raise UserError(path, what, REPLACE)
    if header.format != "PNG":
        return header, data
    try:
        return header, checked_png(data)
    except ValueError as error:
        raise UserError(path, f"is damaged or truncated ({error})", REPLACE) from None


def open_image(data: bytes) -> ImageFile.ImageFile:
    """The image in `data`, with no pixel decoded yet, and without any check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(BytesIO(data), formats=FORMATS)


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn every error while pixels are decoded into a UserError that names the file. Warnings are ignored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # as above
        raise UserError(path, f"is damaged or truncated ({error})", REPLACE) from None
