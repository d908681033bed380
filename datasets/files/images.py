"""Read images and label maps, or say in one line why a file is unusable.

OpenCV decodes JPEGs, as in the published recipes (pixels of two decoders can differ by one grey level). Pillow reads
headers and all other formats.
"""

import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 178_956_970  # Pillow's own limit: a larger image counts as a decompression bomb
MAX_BYTES = 2**31  # largest file; MAX_PIXELS uncompressed pixels need less
PIXELS_PER_BYTE = 8 * 1032  # upper bound for PNG and JPEG: 1 bit per pixel, and deflate compresses 1032 : 1 at best
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")  # for some other formats Pillow starts external programs
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # JPEG markers, except those that occur inside a scan
FRAMES, SCAN, END_OF_IMAGE = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA}), 0xDA, 0xD9
REPLACE = "replace or remove the file"


def read_image(path: Path) -> np.ndarray:
    """The image as displayed (EXIF orientation applied, unless the EXIF data are damaged): RGB uint8 [H, W, 3].

    Grey is repeated, transparency dropped, palettes and CMYK are converted, 16 bits reduced to the upper 8. If there
    are several frames, the first is read. The format is detected from the content, not from the file name.
    Raises UserError if the file is missing, incomplete, damaged, too large, or not in one of FORMATS. Damage that
    leaves a valid file is detected in PNGs only, since they have checksums.
    """
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format in ("JPEG", "MPO"):
        if not _is_complete_jpeg(data):
            raise UserError(path, "the image is truncated", REPLACE)
        pixels = _decode_jpeg(path, data)
        if header.mode in ("L", "RGB"):
            return pixels  # CMYK is decoded again: Pillow converts it better, but does not report damage
    with reporting_damage(path):
        picture = ImageOps.exif_transpose(header)
    return _as_rgb(path, picture)


def read_label_map(path: Path) -> np.ndarray:
    """The values of a single-channel or palette PNG, as stored: [H, W], uint8 or uint16.

    Raises UserError if the file is missing, incomplete, not a PNG, too large, or contains colours instead of indices.
    """
    data, header = _read_png_header(path)
    if header.mode not in ("1", "L", "P", "I", "I;16"):
        what = f"has pixels of kind {header.mode} where one class index per pixel is expected"
        raise UserError(path, what, "store class indices in a single-channel (or palette) PNG of 8 or 16 bits")
    with reporting_damage(path):
        values = np.asarray(header)
    bits = data[24]  # bit depth in the PNG header
    if header.mode == "L" and bits < 8:
        values = values // (255 // (2**bits - 1))  # Pillow has scaled them to 0..255
    return values.astype(np.uint16 if bits == 16 else np.uint8)


def read_rgb_png(path: Path, meaning: str) -> np.ndarray:
    """The pixels of an 8-bit RGB PNG, as stored: uint8 [H, W, 3]. meaning: what the colours encode, for the error.

    Raises UserError if the file is missing, incomplete, too large, not a PNG, or a PNG of another kind.
    """
    data, header = _read_png_header(path)
    bits, color_type = data[24:26]  # of the PNG header; 2 is RGB
    if (bits, color_type) != (8, 2):
        kind = header.mode if color_type != 2 else f"RGB with {bits} bits each"
        raise UserError(path, f"has pixels of kind {kind} where {meaning} is expected", "store it in an 8-bit RGB PNG")
    with reporting_damage(path):
        return np.asarray(header)


def _read_png_header(path: Path) -> tuple[bytes, Image.Image]:
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format != "PNG":
        raise UserError(path, f"is a {header.format} file", "store labels as PNG, which keeps them exactly")
    return data, header


def write_png(path: Path, values: np.ndarray) -> None:
    """Write values [H, W] of 8 or 16 bits, and make the folder if needed. Raises UserError if that is impossible."""
    _, png = cv2.imencode(".png", values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.tobytes())
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "make room or name another folder") from None


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


def read_header(path: Path, data: bytes) -> Image.Image:
    """The image in `data`, with no pixel decoded yet. Raises UserError if it is not an image, damaged, or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(path, f"has more than {MAX_PIXELS} pixels", "shrink it or cut it into tiles") from None
    except Exception:  # Pillow's format plugins raise many types of exceptions for this
        raise UserError(path, f"is not a readable image ({', '.join(FORMATS)})", REPLACE) from None
    if header.format in ("JPEG", "MPO", "PNG") and header.width * header.height > PIXELS_PER_BYTE * len(data):
        what = f"is damaged or truncated ({len(data)} bytes cannot hold {header.width} x {header.height} pixels)"
        raise UserError(path, what, REPLACE)
    if header.format == "PNG" and (problem := _problem_with_png(data)):
        raise UserError(path, f"is damaged or truncated ({problem})", REPLACE)
    return header


def _problem_with_png(data: bytes) -> str | None:
    """What is wrong with the chunks of a PNG; None if nothing.

    Pillow does not verify the checksums of pixel data, and leaves missing pixels black.
    """
    view, position, kind = memoryview(data), 8, b""
    stream, pixel_bytes = zlib.decompressobj(), 0
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(view[position : position + 4])
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            return f"{len(data)} of at least {end + 4} bytes"
        if position == 8 and kind != b"IHDR":
            return "it does not begin with a header"
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            return f"wrong checksum at byte {end}"
        if kind == b"IDAT":
            piece = bytes(view[position + 8 : end])
            while piece and not stream.eof:
                try:
                    pixel_bytes += len(stream.decompress(piece, 2**20))
                except zlib.error as error:
                    return str(error)
                piece = stream.unconsumed_tail
        position = end + 4
    needed = _pixel_bytes(data)
    return f"{pixel_bytes} of {needed} bytes of pixels" if pixel_bytes < needed else None


def _pixel_bytes(data: bytes) -> int:
    """The size in bytes of a PNG's uncompressed pixels, computed from its header."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits_per_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    total = 0
    for y, x, step_y, step_x in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        total += rows * (1 + -(-columns * bits_per_pixel // 8)) if columns > 0 else 0
    return total


def _is_complete_jpeg(data: bytes) -> bool:
    """Whether the scans contain all bits of all coefficients of every component, and an end-of-image marker follows.

    Decoders fill missing parts with grey, or leave them blurred, instead of failing. A thumbnail in the metadata has
    its own markers, so the search goes from segment to segment.
    """
    missing: dict[int, set[int]] = {}  # DCT coefficients, by component
    position = 2
    while marker := MARKER.search(data, position):
        kind, start = marker[0][1], marker.end()
        if kind == END_OF_IMAGE:
            return bool(missing) and not any(missing.values())
        position = start + int.from_bytes(data[start : start + 2])
        segment = data[start + 2 : position]
        if kind in FRAMES and len(segment) >= 6:
            missing = {component: set(range(64)) for component in segment[6 : 6 + 3 * segment[5] : 3]}
        elif kind == SCAN and segment:
            components, rest = segment[1 : 1 + 2 * segment[0] : 2], segment[1 + 2 * segment[0] :]
            if len(rest) == 3 and rest[2] & 15 == 0:  # otherwise a later scan must add the lower bits
                for component in components:
                    missing.get(component, set()).difference_update(range(rest[0], rest[1] + 1))
    return False


def _decode_jpeg(path: Path, data: bytes) -> np.ndarray:
    try:
        with _captured_stderr() as messages:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(path, "is damaged and cannot be decoded", REPLACE)
    if messages:  # the decoder has found damage, and the pixels after it are made up
        what = f"is damaged ({messages[0].strip()})"
        raise UserError(path, what, "replace the file, or save it again if it looks right")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """Capture what is written to stderr, by C code too, in the list. JPEG decoders report damage there.

    This affects all threads of the process, so keep the block short.
    """
    messages: list[str] = []
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)  # output beyond the size of the pipe is lost
    original = os.dup(2)
    os.dup2(writer, 2)
    try:
        yield messages
    finally:
        os.dup2(original, 2)
        with suppress(BlockingIOError):  # nothing has been written
            messages.append(os.read(reader, 2**16).decode(errors="replace"))
        for descriptor in (reader, writer, original):
            os.close(descriptor)


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn every error while pixels are decoded into a UserError that names the file. Warnings are ignored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
        picture = picture.convert("RGBA")  # Pillow warns about transparent palette entries when converting to RGB
    return np.array(picture.convert("RGB"))
