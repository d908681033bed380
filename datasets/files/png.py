"""Parts of PNG files: find damage that decoders do not report, make chunks."""

import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

try:
    from zlib_ng import zlib_ng as zlib  # the same functions; inflates label maps several times as fast
except ImportError:  # where it has no wheel
    import zlib  # type: ignore[no-redef]

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
MAX_STORED = 2**24  # bytes of pixels that may be held uncompressed
SIGNATURE = b"\x89PNG\r\n\x1a\n"
BAND = 2**22  # bytes of pixels that are compressed at a time


def checked_png(data: bytes) -> bytes:
    """A PNG after the check of all its chunks, with the same content. Raises ValueError that says what is wrong.

    Pillow does not verify the checksums of pixel data, and leaves missing pixels black. The check inflates them, and a
    PNG that is not very large gets them back uncompressed, so that the decoder need not inflate them again.
    """
    view, position, kind = memoryview(data), 8, b""
    stream, pixel_bytes, pieces, idats = zlib.decompressobj(), 0, [], []
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(view[position : position + 4])
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise ValueError(f"{len(data)} of at least {end + 4} bytes")
        if position == 8 and kind != b"IHDR":
            raise ValueError("it does not begin with a header")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"wrong checksum at byte {end}")
        if kind == b"IDAT":
            idats.append((position, end + 4))
            piece = bytes(view[position + 8 : end])
            while piece and not stream.eof:
                try:
                    inflated = stream.decompress(piece, 2**20)
                except zlib.error as error:  # type: ignore[misc]  # so its stub has it
                    raise ValueError(str(error)) from None
                pixel_bytes += len(inflated)
                if pixel_bytes <= MAX_STORED:
                    pieces.append(inflated)
                piece = stream.unconsumed_tail
        position = end + 4
    needed = _pixel_bytes(data)
    if pixel_bytes < needed:
        raise ValueError(f"{pixel_bytes} of {needed} bytes of pixels")
    together = all(before[1] == after[0] for before, after in pairwise(idats))
    if pixel_bytes > MAX_STORED or not together:
        return data
    stored = zlib.compress(b"".join(pieces), 0)
    return b"".join([data[: idats[0][0]], *_chunk_parts(b"IDAT", stored), data[idats[-1][1] :]])


def _pixel_bytes(data: bytes) -> int:
    """The size in bytes of a PNG's uncompressed pixels, computed from its header."""
    width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits_per_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    total = 0
    for y, x, step_y, step_x in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        total += rows * (1 + -(-columns * bits_per_pixel // 8)) if columns > 0 else 0
    return total


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return b"".join(_chunk_parts(kind, content))


def _chunk_parts(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)


def png_pieces(values: np.ndarray, text: Mapping[str, str], coloured: bool = False) -> Iterator[bytes]:
    """A PNG of values [H, W], uint8 or uint16, piece by piece: of a large image not even its file is held.

    text: keys and values (Latin-1) of `tEXt` chunks. coloured: 8 bits are indices into VOC's palette, not grey levels:
    the same values, seen in colours. Filter and compression are those of OpenCV: differences from the
    pixel to the left, and runs.
    """
    height, width = values.shape
    size = values.dtype.itemsize
    coloured = coloured and size == 1
    yield SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * size, 3 * coloured, 0, 0, 0))
    if coloured:
        yield png_chunk(b"PLTE", bytes(part for colour in voc_colours() for part in colour))
    for key, value in text.items():
        yield png_chunk(b"tEXt", f"{key}\0{value}".encode("latin-1"))
    stream = zlib.compressobj(level=1, memLevel=9, strategy=zlib.Z_RLE)
    rows = max(1, BAND // (width * size))
    for top in range(0, height, rows):
        levels = values[top : top + rows]
        pixels = np.ascontiguousarray(levels, levels.dtype.newbyteorder(">")).view(np.uint8)
        lines = np.empty((len(pixels), 1 + pixels.shape[1]), np.uint8)
        lines[:, 0] = 1  # the filter "Sub"
        lines[:, 1 : 1 + size] = pixels[:, :size]
        np.subtract(pixels[:, size:], pixels[:, :-size], out=lines[:, 1 + size :])
        if compressed := stream.compress(lines):
            yield png_chunk(b"IDAT", compressed)
    yield png_chunk(b"IDAT", stream.flush()) + png_chunk(b"IEND", b"")


def voc_colours() -> list[tuple[int, int, int]]:
    """The colours of VOC's palette: bit k of each channel comes from bit 3k of the index, highest first."""
    colours = []
    for index in range(256):
        red, green, blue = (
            sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        colours.append((red, green, blue))
    return colours
