"""Parts of PNG files: find damage that decoders do not report, make chunks."""

import struct
from itertools import pairwise

try:
    from zlib_ng import zlib_ng as zlib  # the same functions; inflates label maps several times as fast
except ImportError:  # where it has no wheel
    import zlib  # type: ignore[no-redef]

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
MAX_STORED = 2**24  # bytes of pixels that may be held uncompressed
HEADER_END = 33  # bytes: the signature and the header, which all other chunks follow


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


def with_palette(png: bytes) -> bytes:
    """A PNG of 8-bit grey levels as one of indices into VOC's palette: the same values, seen in colours."""
    header = png_chunk(b"IHDR", png[16:25] + b"\x03" + png[26:29])  # the byte of the kind of pixels
    return (
        png[:8]
        + header
        + png_chunk(b"PLTE", bytes(part for colour in voc_colours() for part in colour))
        + png[HEADER_END:]
    )


def voc_colours() -> list[tuple[int, int, int]]:
    """The colours of VOC's palette: bit k of each channel comes from bit 3k of the index, highest first."""
    colours = []
    for index in range(256):
        red, green, blue = (
            sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        colours.append((red, green, blue))
    return colours
