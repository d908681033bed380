"""Decode JPEGs, and tell damage from what decoders warn about although all pixels are there.

libjpeg does not fail where data are missing: it makes up grey or blurred pixels and prints a warning, but only its
first one. So everything harmless that it warns about is taken out before.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from datasets.files.reading import REPLACE
from errors import UserError

MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # markers, except those that occur inside a scan
SEQUENTIAL, PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC9}), frozenset({0xC2, 0xCA})
SCAN, END_OF_IMAGE, APP0, APP14 = 0xDA, 0xD9, 0xE0, 0xEE
WHOLE_SCAN = bytes([0, 63, 0])  # the last bytes of a scan header: all coefficients, all of their bits
COLOUR_TRANSFORM = {3: 1, 4: 2}  # what decoders assume for an unknown one: YCbCr, YCCK
SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
FILLED = 16  # bytes; decoders read up to 8 ahead
STRAY = 64  # bytes


def decode_jpeg(path: Path, data: bytes) -> np.ndarray:
    """The first picture of a JPEG or MPO file as displayed: RGB uint8 [H, W, 3].

    Raises UserError if it is truncated or damaged. What follows the picture does not matter, nor do bytes between its
    last pixel and its end marker; but a file without end marker counts as truncated.
    """
    clean = clean_jpeg(data)
    if clean is None:
        raise UserError(path, "the image is truncated", REPLACE)
    try:
        with captured_stderr() as messages:
            image = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(path, "is damaged and cannot be decoded", REPLACE)
    for message in "".join(messages).splitlines():
        surplus = SURPLUS.fullmatch(message.strip())
        if surplus is None or not _is_padding(clean, int(surplus[1])):
            what = f"is damaged or truncated ({message.strip()})"  # and the pixels after that place are made up
            raise UserError(path, what, "replace the file, or save it again if it looks right")
    return image


def clean_jpeg(data: bytes) -> bytes | None:
    """The first picture without what decoders warn about in vain; None unless its scans and its end are there.

    In a sequential file every component needs a scan. Its header has fields that only mean something in progressive
    files; some cameras write 0 there. In a progressive file the scans must hold all bits of all coefficients of every
    component. A thumbnail in the metadata has its own markers, so the search goes from segment to segment.
    """
    missing: dict[int, set[int]] = {}  # DCT coefficients, by component
    sequential, in_scan, position = False, False, 2
    parts, adobe = [data[:2]], None
    while marker := MARKER.search(data, position):
        if in_scan:
            parts.append(data[position : marker.start()])
        kind, start = marker[0][1], marker.end()
        if kind == END_OF_IMAGE:
            if adobe is not None and parts[adobe][11 + 4] != 0 and len(missing) in COLOUR_TRANSFORM:
                parts[adobe] = _with_byte(parts[adobe], 11 + 4, COLOUR_TRANSFORM[len(missing)])
            return b"".join([*parts, marker[0]]) if missing and not any(missing.values()) else None
        position = start + int.from_bytes(data[start : start + 2])
        in_scan = kind == SCAN
        segment = data[start + 2 : position]
        if kind in SEQUENTIAL | PROGRESSIVE and len(segment) >= 6:
            missing = {component: set(range(64)) for component in segment[6 : 6 + 3 * segment[5] : 3]}
            sequential = kind in SEQUENTIAL
        elif kind == SCAN and segment:
            components, rest = segment[1 : 1 + 2 * segment[0] : 2], segment[1 + 2 * segment[0] :]
            if sequential and len(rest) == 3:
                segment, rest = segment[:-3] + WHOLE_SCAN, WHOLE_SCAN
            if len(rest) == 3 and rest[2] & 15 == 0:  # otherwise a later scan must add the lower bits
                for component in components:
                    missing.get(component, set()).difference_update(range(rest[0], rest[1] + 1))
        elif kind == APP0 and segment.startswith(b"JFIF\0") and len(segment) > 5:
            segment = _with_byte(segment, 5, 1)  # the only version that decoders know
        elif kind == APP14 and segment.startswith(b"Adobe") and len(segment) > 11:
            adobe = len(parts)
        parts.append(data[marker.start() : start + 2] + segment)
    return None


def _with_byte(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def _is_padding(data: bytes, surplus: int) -> bool:
    """Whether the `surplus` bytes before the end marker, which no pixel needed, do no harm.

    Files that were cut and filled up with zeros to their old size also have such bytes: there the last pixels were made
    of zeros too. And if a large part of a scan is not needed, the decoder has lost its place.
    """
    start = data.rindex(b"\xff" + bytes([SCAN]))
    scan = data[start:-2]
    used, last = scan[: len(scan) - surplus], scan[-1:]
    if scan.endswith(last * surplus):
        return not used.endswith(last * FILLED)
    return surplus <= max(STRAY, len(scan) // 10)


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
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
