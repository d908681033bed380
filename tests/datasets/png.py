"""PNGs of every kind, written by the letter of the standard, to read and to spoil."""

import struct
import zlib
from itertools import pairwise

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    values: np.ndarray,
    bits: int = 8,
    color: int = GREY,
    *,
    interlaced: bool = False,
    size: tuple[int, int] | None = None,
    extra: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """values: [H, W] or [H, W, C], below 2**bits. size: what the header claims. extra: chunks before the pixels.

    pieces: into so many chunks the pixels are cut.
    """
    raw = b""
    for y, x, step_y, step_x in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = values[y::step_y, x::step_x]
        planes = (part[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(planes.reshape(len(part), -1).astype(np.uint8), axis=1)
        raw += b"".join(b"\0" + row.tobytes() for row in rows if row.size)
    height, width = size or values.shape[:2]
    packed = zlib.compress(raw)
    cuts = [len(packed) * piece // pieces for piece in range(pieces + 1)]
    data = b"".join(chunk(b"IDAT", packed[start:end]) for start, end in pairwise(cuts))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")
