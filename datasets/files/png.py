"""Parts of PNG files: find damage that decoders do not report, make chunks."""

import struct
import zlib

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
HEADER_END = 33  # bytes: the signature and the header, which all other chunks follow


def problem_with_png(data: bytes) -> str | None:
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


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
