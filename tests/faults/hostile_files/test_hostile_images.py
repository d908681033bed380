"""Hostile pictures, label maps, depth maps and panoptic PNGs: each is read exactly or refused in one line."""

import importlib
import os
import resource
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from config import validate
from datasets.files.images import read_image
from datasets.loading import BatchLayout, evaluation_loader, training_loader
from datasets.nyu.dataset import NYUConfig
from datasets.semantic.ade20k import ADE20KConfig
from tests.conftest import TINY, read
from tests.datasets.panoptic import panoptic_layout
from tests.datasets.png import GREY_ALPHA, PALETTE, RGB, RGBA, chunk, png
from tests.faults.hostile_files.hostile import Trial, trial  # noqa: F401 (a fixture)
from tests.launch import run

RNG = np.random.default_rng(0)
SIZE = 24, 36
PIXELS = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
GREY = PIXELS[..., 0]
LABELS = RNG.integers(0, 4, SIZE, dtype=np.uint8)
DEPTH = RNG.integers(500, 9000, SIZE, dtype=np.uint16)
ORIENTATION = 0x0112
DISPLAYED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # from what is stored, by EXIF orientation
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def encoded(kind: str, picture: np.ndarray | Image.Image = PIXELS, **options: Any) -> bytes:
    file = BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    result = Image.Exif()
    result[ORIENTATION] = orientation
    return result


JPEG, PROGRESSIVE = encoded("JPEG", quality=90), encoded("JPEG", quality=90, progressive=True)
PNG = png(PIXELS, color=RGB)


def marker(data: bytes, second: int) -> int:
    """Where a JPEG's segment of that kind begins."""
    return data.index(bytes([0xFF, second]))


def replaced(data: bytes, position: int, content: bytes) -> bytes:
    return data[:position] + content + data[position + len(content) :]


def flipped(data: bytes, bit: int) -> bytes:
    return replaced(data, bit // 8, bytes([data[bit // 8] ^ 1 << bit % 8]))


def ycck() -> bytes:
    """PIXELS as Adobe's four-channel JPEG: brightness and colour of the inverted picture, and no black."""
    channels = cv2.cvtColor(255 - PIXELS, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    stored = np.dstack([channels, np.full(SIZE, 255, np.uint8)])
    data = encoded("JPEG", Image.fromarray(255 - stored, "CMYK"), quality=95)  # Pillow inverts them once more
    return replaced(data, data.index(b"Adobe") + 11, b"\2")


# --- pictures that must be read --------------------------------------------------------------------------------------


def good() -> Iterator[tuple[str, bytes, np.ndarray, float]]:
    """Name, content, the intended picture, and by how many grey levels it may differ on average."""
    deep = RNG.integers(0, 2**16, (*SIZE, 4), dtype=np.uint16)
    few = PIXELS // 64
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    colors = chunk(b"PLTE", palette.tobytes())
    alpha = np.dstack([PIXELS, LABELS])
    grey = np.repeat(GREY[..., None], 3, axis=2)
    for interlaced in (False, True):
        kind = "interlaced PNG" if interlaced else "PNG"
        make = partial(png, interlaced=interlaced)
        yield f"{kind} of 24 bits", make(PIXELS, color=RGB), PIXELS, 0
        yield f"{kind} with transparency", make(alpha, color=RGBA), PIXELS, 0
        yield f"{kind}, grey", make(GREY), grey, 0
        yield f"{kind}, grey with transparency", make(alpha[..., [0, 3]], color=GREY_ALPHA), grey, 0
        yield f"{kind}, grey of 16 bits", make(deep[..., 0], 16), np.repeat(deep[..., :1] >> 8, 3, axis=2), 0
        yield f"{kind} of 48 bits", make(deep[..., :3], 16, RGB), deep[..., :3] >> 8, 0
        yield f"{kind} of 64 bits", make(deep, 16, RGBA), deep[..., :3] >> 8, 0
        for bits in (1, 2, 4):
            values = few[..., 0] % 2**bits
            yield f"{kind}, grey of {bits} bits", make(values, bits), make_grey(values, bits), 0
        for bits in (2, 4, 8):
            yield f"{kind}, palette of {bits} bits", make(LABELS, bits, PALETTE, extra=colors), palette[LABELS], 0
    part = np.full((5, 7, 3), 200, np.uint8)
    yield (
        "PNG, see-through palette",
        png(LABELS, 8, PALETTE, extra=colors + chunk(b"tRNS", b"\0\7")),
        palette[LABELS],
        0,
    )
    yield "PNG in nine pieces", png(PIXELS, color=RGB, pieces=9), PIXELS, 0
    yield "PNG with an unknown chunk", png(PIXELS, color=RGB, extra=chunk(b"abCd", b"x" * 9)), PIXELS, 0
    yield "PNG with bytes behind it", PNG + b"more", PIXELS, 0
    yield "animated PNG", encoded("PNG", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), PIXELS, 0
    yield "BMP", encoded("BMP"), PIXELS, 0
    yield "TIFF", encoded("TIFF"), PIXELS, 0
    yield "compressed TIFF", encoded("TIFF", compression="tiff_lzw"), PIXELS, 0
    yield "TIFF of two pages", encoded("TIFF", save_all=True, append_images=[Image.fromarray(part)]), PIXELS, 0
    yield "lossless WebP", encoded("WEBP", lossless=True), PIXELS, 0
    small = Image.fromarray(LABELS, "P")
    small.putpalette(palette.tobytes())
    yield "GIF", encoded("GIF", small), palette[LABELS], 0
    yield "animated GIF", encoded("GIF", small, save_all=True, append_images=[small.rotate(180)]), palette[LABELS], 0

    for size in ((1, 1), (1, 40), (40, 1), (7, 9), (16, 16), (17, 33)):
        picture = cv2.resize(PIXELS, size[::-1])
        yield f"PNG of {size}", png(picture, color=RGB), picture, 0
        data = encoded("JPEG", picture, quality=95, subsampling=0)
        yield f"JPEG of {size}", data, decoded(data), 0
    for kind, options in {
        "JPEG": {},
        "progressive JPEG": {"progressive": True},
        "JPEG with full colour": {"subsampling": 0},
        "JPEG with own tables": {"optimize": True},
        "JPEG with restarts": {"restart_marker_rows": 1},
        "JPEG with comments": {"comment": b"\xff\xd9\xff\xda" * 50},
        "JPEG with a large profile": {"icc_profile": bytes(150_000)},
    }.items():
        data = encoded("JPEG", quality=90, **options)
        yield kind, data, decoded(data), 0
        yield f"{kind}, against the original", data, PIXELS, 6
        yield f"{kind} with bytes behind it", data + b"\xff\xda more", decoded(data), 0
        filled = data[: marker(data, 0xDB)] + b"\xff" * 3 + data[marker(data, 0xDB) :]
        yield f"{kind} with bytes between segments", filled, decoded(data), 0
        yield f"{kind}, grey", encoded("JPEG", GREY, quality=90, **options), grey, 6
    yield (
        "JPEG of two pictures",
        encoded("MPO", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
        PIXELS,
        6,
    )
    yield "CMYK JPEG", encoded("JPEG", Image.fromarray(PIXELS).convert("CMYK"), quality=95, subsampling=0), PIXELS, 3
    yield "YCCK JPEG", ycck(), PIXELS, 3
    for number in (0, 9, 255, *DISPLAYED):
        shown = DISPLAYED.get(number, DISPLAYED[1])
        yield f"PNG of orientation {number}", encoded("PNG", exif=exif(number)), shown(PIXELS), 0
        yield f"TIFF of orientation {number}", encoded("TIFF", exif=exif(number)), shown(PIXELS), 0
        inks = Image.fromarray(PIXELS).convert("CMYK")
        yield f"CMYK JPEG of orientation {number}", encoded("JPEG", inks, exif=exif(number)), shown(PIXELS), 6
        data = encoded("JPEG", quality=90, exif=exif(number))
        yield f"JPEG of orientation {number}", data, shown(decoded(encoded("JPEG", quality=90))), 0


def make_grey(values: np.ndarray, bits: int) -> np.ndarray:
    return np.repeat(values[..., None] * (255 // (2**bits - 1)), 3, axis=2)


def decoded(data: bytes) -> np.ndarray:
    """A whole JPEG by OpenCV, no orientation applied."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., ::-1]


# --- pictures that must be refused -----------------------------------------------------------------------------------

DAMAGED = "truncated|damaged|not a readable image|pixels|is empty|has 32 bits"


def spoilt_pngs(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of ways to spoil a PNG. count: of places where it is cut, and of bits that are turned over."""
    for length in sorted({1, 7, 8, 20, 33, 40, len(data) - 13, len(data) - 1, *RNG.integers(1, len(data), count)}):
        yield f"PNG cut after {length} of {len(data)} bytes", data[:length]
        yield f"PNG of which {length} of {len(data)} bytes are not zero", data[:length].ljust(len(data), b"\0")
    header = range(0, 8 * 33, 1 if count > 8 else 11)
    for bit in sorted({*header, *RNG.integers(8 * 33, 8 * len(data), count)}):
        yield f"PNG with bit {bit} turned over", flipped(data, bit)
    pixels = data.index(b"IDAT") - 4
    end = len(data) - 12
    yield "PNG without pixels", data[:pixels] + data[end:]
    yield "PNG with garbage for pixels", data[:pixels] + chunk(b"IDAT", b"garbage") + data[end:]
    yield "PNG with the end first", data[:8] + data[end:] + data[8:]
    yield "PNG with pixels before the header", data[:8] + data[pixels:end] + data[8:pixels] + data[end:]
    yield "PNG of which a chunk has a negative length", replaced(data, pixels, b"\xff\xff\xff\xf0")
    yield "PNG twice as high as its pixels", rewritten_size(data, SIZE[1], 2 * SIZE[0])
    yield "PNG twice as wide as its pixels", rewritten_size(data, 2 * SIZE[1], SIZE[0])
    for width, height in ((0, 5), (5, 0), (0, 0), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1)):
        yield f"PNG that claims {width} x {height}", rewritten_size(data, width, height)
    yield "PNG that claims 13,000 x 13,000, fewer than the limit", rewritten_size(data, 13_000, 13_000)
    for place, wrong in ((24, 3), (24, 0), (24, 32), (25, 1), (25, 7), (27, 1), (28, 2)):
        header_chunk = chunk(b"IHDR", replaced(data, place, bytes([wrong]))[16:29])
        yield f"PNG whose header says {wrong} at byte {place}", data[:8] + header_chunk + data[33:]
    yield "PNG with an endless text", data[:33] + endless_text() + data[33:]


@cache
def endless_text() -> bytes:
    return chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27), 1))


def rewritten_size(data: bytes, width: int, height: int) -> bytes:
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


def spoilt_jpegs(count: int) -> Iterator[tuple[str, bytes]]:
    for kind, data in (
        ("JPEG", JPEG),
        ("progressive JPEG", PROGRESSIVE),
        ("CMYK JPEG", encoded("JPEG", Image.fromarray(PIXELS).convert("CMYK"))),
        ("grey JPEG", encoded("JPEG", GREY)),
    ):
        scan = marker(data, 0xDA) + 14
        places = RNG.integers(3, len(data) - 1, count)
        for length in sorted({3, 11, scan, len(data) - 3, len(data) - 2, len(data) - 1, *places}):
            yield f"{kind} cut after {length} of {len(data)} bytes", data[:length]
        for length in np.linspace(scan, len(data) * 0.9, count).astype(int):
            yield f"{kind} cut after {length} of {len(data)} bytes, with an end", data[:length] + b"\xff\xd9"
            filled = data[:length].ljust(len(data) - 2, b"\0") + b"\xff\xd9"
            yield f"{kind} of which {length} of {len(data)} bytes are not zero, with an end", filled
    tables, frame = marker(JPEG, 0xC4), marker(JPEG, 0xC0)
    for place in (4, 5, 8, 12, 20, 22, 25):
        yield f"JPEG with wrong Huffman tables, byte {place}", flipped(JPEG, 8 * (tables + place) + 7)
    for second in (0xC1 + 2, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD):
        yield f"JPEG that claims coding {second:x}", replaced(JPEG, frame + 1, bytes([second]))
    for width, height in ((65_500, 65_500), (0, 16), (16, 0), (13_000, 13_000), (SIZE[1], 400), (400, SIZE[0])):
        yield f"JPEG that claims {width} x {height}", replaced(JPEG, frame + 5, struct.pack(">HH", height, width))
    for place, wrong in ((4, 12), (4, 16), (4, 0), (9, 0), (9, 4), (9, 255)):
        yield f"JPEG whose header says {wrong} at byte {place}", replaced(JPEG, frame + place, bytes([wrong]))
    yield "JPEG without a frame", JPEG[:frame] + JPEG[tables:]
    yield "JPEG of two halves", JPEG[: len(JPEG) // 2] + PROGRESSIVE[len(PROGRESSIVE) // 2 :]


def spoilt_others(count: int) -> Iterator[tuple[str, bytes]]:
    """What is no picture, and pictures of formats without checksums cut short."""
    archive = b"PK\3\4" + bytes(26) + b"a.txt"
    texts = {
        "nothing": b"",
        "a zero": b"\0",
        "zeros": bytes(5000),
        "a text": b"not found",
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "JSON": b'{"error": 404}',
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "a zip archive": archive,
        "a gzip archive": b"\x1f\x8b\x08" + bytes(40),
        "a PDF": b"%PDF-1.4\n%%EOF",
        "PostScript": encoded("EPS"),
        "X pixmap": b"/* XPM */ static char *a[] = {};",
        "JPEG 2000": encoded("JPEG2000"),
        "portable pixmap": encoded("PPM"),
        "icon": encoded("ICO"),
        "PCX": encoded("PCX"),
        "TGA": encoded("TGA"),
        "TIFF of 32-bit numbers": encoded("TIFF", Image.new("F", (4, 4))),
        "TIFF that refers to itself": b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0",
        "GIF that claims 65535 x 65535": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0;",
        "BMP that claims 2 billion columns": replaced(encoded("BMP"), 18, struct.pack("<i", 2**31 - 1)),
        "three bytes of a JPEG": b"\xff\xd8\xff",
    }
    yield from texts.items()
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        data = encoded(kind)
        for share in np.linspace(0.1, 0.9, max(count // 2, 2)):
            yield f"{kind} cut after {share:.0%}", data[: int(share * len(data))]
    for seed in range(count):
        noise = np.random.default_rng(seed).bytes(300)
        yield f"noise {seed}", noise
        yield f"noise {seed} that begins as a JPEG", b"\xff\xd8\xff\xe0" + noise
        yield f"noise {seed} that begins as a PNG", b"\x89PNG\r\n\x1a\n" + noise


def spoilt_images(count: int) -> Iterator[tuple[str, bytes]]:
    yield from spoilt_pngs(PNG, count)
    yield from spoilt_jpegs(count)
    yield from spoilt_others(count)


# --- as training and validation image --------------------------------------------------------------------------------


def semantic(root: Path, **options: Any) -> ADE20KConfig:
    resize = {"name": "resize_fit", "long": 64, "short": 32}
    transforms = {"train_transforms": ["normalize"], "test_transforms": [resize, "normalize"]}
    classes = {"classes": ["a", "b", "c"], "first_label": 1, "ignore_labels": [0]}
    return validate(ADE20KConfig, {"root": str(root), **transforms, **classes, **options}, "data")


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """One image and label map in both splits of ADE20K."""
    for split in ("training", "validation"):
        for kind, suffix, data in (("images", "jpg", JPEG), ("annotations", "png", png(LABELS))):
            path = tmp_path / kind / split / f"a.{suffix}"
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
    return tmp_path


def first_batch(config: ADE20KConfig | NYUConfig, split: str) -> object:
    """As training and evaluation read it."""
    if split == "train":
        options = {"seed": 0, "layout": BatchLayout(1), "size_divisor": 32}
        return next(training_loader(config.build("train"), config.train_transforms, **options))
    return next(iter(evaluation_loader(config.build("val"), config.test_transforms, batch_size=1, size_divisor=32)))


def same(expected: np.ndarray, within: float = 0) -> Callable[[np.ndarray], bool]:
    def right(pixels: np.ndarray) -> bool:
        shaped = pixels.shape == expected.shape and pixels.dtype == np.uint8
        return shaped and abs(pixels.astype(int) - expected).mean() <= within

    return right


def test_unusual_pictures_are_read_exactly(ade, every, tally, trial):  # noqa: F811
    for number, (name, data, expected, within) in enumerate(good()):
        path = ade / "images/training/a.jpg"
        path.write_bytes(data)
        trial.taken(name, partial(read_image, path), path, same(expected, within))
        labels = png(
            cv2.resize(LABELS, expected.shape[1::-1], interpolation=cv2.INTER_NEAREST).reshape(expected.shape[:2])
        )
        (ade / "annotations/training/a.png").write_bytes(labels)
        if every or number % 6 == 0:
            trial.taken(f"{name}, training", partial(first_batch, semantic(ade), "train"), path, bool)
    trial.end(
        tally,
        "unusual but valid pictures under a wrong suffix (palettes, 1 to 16 bits, CMYK, YCCK, interlaced, progressive, "
        "animated, EXIF orientations, one pixel): read as the very pixels that they stand for",
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_spoilt_pictures_are_refused(ade, every, tally, trial, split):  # noqa: F811
    folder = {"train": "training", "val": "validation"}[split]
    config, path = semantic(ade), ade / "images" / folder / "a.jpg"
    for name, data in spoilt_images(40 if every else 3):
        path.write_bytes(data)
        trial.refused(name, partial(first_batch, config, split), path, DAMAGED)
    trial.end(
        tally,
        "JPEG, PNG, GIF, BMP, TIFF and WebP files cut short, with bits turned over, wrong tables and sizes, bombs, and "
        f"files that are no pictures, as {folder} image: refused in one line, none half grey",
    )


def test_bits_turned_over_in_jpegs(tmp_path, every, tally, trial):  # noqa: F811
    path = tmp_path / "a.jpg"
    for data in (JPEG, PROGRESSIVE, encoded("JPEG", exif=exif(6)), ycck()):
        bits = range(16, 8 * len(data), 1 if every else 97)
        for bit in bits:
            path.write_bytes(flipped(data, bit))
            trial.either(f"bit {bit}", partial(read_image, path), path, lambda pixels: pixels.ndim == 3)
    trial.end(
        tally,
        "any one bit of a JPEG turned over (it has no checksum, so some are valid pictures): a picture or one line, no "
        "crash, no hang, no warning",
    )


def test_bombs_take_no_memory(tmp_path, tally, trial):  # noqa: F811
    path = tmp_path / "a.jpg"
    bombs = [item for item in spoilt_images(1) if "claims" in item[0] or "endless" in item[0]]
    with address_space(96 * 2**20):
        for name, data in bombs:
            path.write_bytes(data)
            trial.refused(name, partial(read_image, path), path, DAMAGED)
        with path.open("wb") as file:
            file.truncate(2**33)
        trial.refused("an empty file of 8 GiB", partial(read_image, path), path, "8589934592 bytes")
    trial.end(tally, "pictures of a few bytes that claim up to 2^62 pixels: refused within 96 MiB of memory")


@contextmanager
def address_space(more: int) -> Iterator[None]:
    """So many bytes of memory beyond what the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("number", DISPLAYED)
def test_annotations_fit_the_displayed_picture(ade, tally, trial, number):  # noqa: F811
    """They are never turned themselves."""
    image, annotation = ade / "images/training/a.jpg", ade / "annotations/training/a.png"
    image.write_bytes(encoded("JPEG", exif=exif(number)))
    shown = DISPLAYED[number](LABELS)
    annotation.write_bytes(png(shown))
    load = partial(lambda: semantic(ade).build("train").load(0))
    trial.taken(
        "displayed", load, annotation, lambda sample: np.array_equal(sample.semantic + 1, np.where(shown, shown, 256))
    )
    annotation.write_bytes(encoded("PNG", shown, exif=exif(number)))
    trial.taken(
        "tagged", load, annotation, lambda sample: np.array_equal(sample.semantic + 1, np.where(shown, shown, 256))
    )
    if number > 4:
        annotation.write_bytes(png(LABELS))
        trial.refused("stored", load, annotation, "but a.jpg is displayed at 24 x 36")
    trial.end(tally, "EXIF orientations 1 to 8: labels belong to the picture as displayed, others are refused")


# --- as label map, depth map, panoptic PNG ---------------------------------------------------------------------------


def depths(root: Path) -> NYUConfig:
    paths = {f"{split}_{kind}": kind for split in ("train", "val") for kind in ("images", "depths")}
    return validate(
        NYUConfig,
        {"root": str(root), **paths, "train_transforms": ["normalize"], "test_transforms": ["normalize"]},
        "data",
    )


def bad_labels() -> dict[str, bytes]:
    wide = np.zeros((24, 37), np.uint8)
    return {
        "colours": PNG,
        "colours with transparency": png(np.dstack([PIXELS, GREY]), color=RGBA),
        "transparency": png(np.dstack([LABELS, LABELS]), color=GREY_ALPHA),
        "a value too large": png(np.where(LABELS == 3, 4, LABELS)),
        "255": png(np.where(LABELS == 3, 255, LABELS)),
        "65535": png(np.where(LABELS == 3, 65535, LABELS.astype(np.uint16)), 16),
        "swapped bytes": png(LABELS.astype(np.uint16) << 8, 16),
        "a palette with too many": png(np.where(LABELS == 3, 9, LABELS), 8, PALETTE, extra=chunk(b"PLTE", bytes(48))),
        "another size": png(wide),
        "the size turned": png(LABELS.T),
        "one pixel": png(LABELS[:1, :1]),
        "lossy": encoded("JPEG", LABELS),
        "a GIF": encoded("GIF", LABELS),
        "a BMP": encoded("BMP", LABELS),
        "a WebP": encoded("WEBP", lossless=True),
    }


def bad_depths() -> dict[str, bytes]:
    return {
        "8 bits": png(DEPTH >> 8),
        "colours": PNG,
        "colours of 16 bits": png(np.dstack([DEPTH] * 3), 16, RGB),
        "transparency": png(np.dstack([DEPTH] * 2), 16, GREY_ALPHA),
        "a palette": png(LABELS, 8, PALETTE, extra=chunk(b"PLTE", bytes(48))),
        "another size": png(np.full((24, 37), 2000), 16),
        "the size turned": png(DEPTH.T, 16),
        "lossy": encoded("JPEG", (DEPTH >> 8).astype(np.uint8)),
        "a TIFF": encoded("TIFF", DEPTH),
    }


def bad_segments() -> dict[str, bytes]:
    ids = panoptic_layout.ids_of(9)
    colors = np.dstack([ids & 255, ids >> 8 & 255, ids >> 16])
    return {
        "grey": png(ids & 255),
        "16 bits": png(colors, 16, RGB),
        "transparency": png(np.dstack([colors, ids & 255]), color=RGBA),
        "a palette": png(ids % 4, 8, PALETTE, extra=chunk(b"PLTE", bytes(48))),
        "blue for red": png(colors[..., ::-1], color=RGB),
        "an unknown segment": png(np.where((ids == 1)[..., None], [7, 7, 7], colors), color=RGB),
        "a missing segment": png(np.where((ids == 1)[..., None], [0, 0, 0], colors), color=RGB),
        "the size turned": png(colors.swapaxes(0, 1), color=RGB),
        "another size": png(colors[:-1], color=RGB),
        "lossy": encoded("JPEG", colors.astype(np.uint8)),
        "a BMP": encoded("BMP", colors.astype(np.uint8)),
    }


def of_kind(kind: str, root: Path) -> tuple[Path, list[Callable[[], Any]], bytes, dict[str, bytes]]:
    """The file to spoil, ways to read it, its right content, and contents that are wrong in ways of its kind."""
    if kind == "label map":
        path = root / "annotations/training/a.png"
        config = semantic(root, val_annotations="annotations/training")
        reads = [lambda: config.build("train").load(0), partial(first_batch, config, "val")]
        return path, reads, png(LABELS), bad_labels()
    if kind == "depth map":
        for folder, data in (("images", JPEG), ("depths", png(DEPTH, 16))):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"a.{'jpg' if folder == 'images' else 'png'}").write_bytes(data)
        nyu = depths(root)
        reads = [lambda: nyu.build("train").load(0), partial(first_batch, nyu, "val")]
        return root / "depths/a.png", reads, png(DEPTH, 16), bad_depths()
    panoptic_layout.write_layout(root)
    pan = panoptic_layout.config(root)
    path = root / panoptic_layout.TRAIN.removesuffix(".json") / "000000000009.png"
    places = [int(pan.build("train").target(index).image_id) for index in range(len(pan.build("train")))]
    row = places.index(9)
    reads = [lambda: pan.build("train").load(row), lambda: pan.build("train").target(row)]
    return path, reads, path.read_bytes(), bad_segments()


@pytest.mark.parametrize("kind", ["label map", "depth map", "panoptic PNG"])
def test_spoilt_annotations_are_refused(ade, every, tally, trial, kind):  # noqa: F811
    path, reads, right, wrong = of_kind(kind, ade)
    spoilt = [*wrong.items(), *spoilt_pngs(right, 24 if every else 2), *spoilt_others(8 if every else 1)]
    for number, (name, data) in enumerate(spoilt):
        path.write_bytes(data)
        for act in reads if every else [reads[number % len(reads)]]:
            # Whatever has another size than its image is refused, if only by that.
            trial.refused(name, act, path)
    path.write_bytes(right)
    for act in reads:
        trial.taken("the right one", act, path, bool)
    trial.end(
        tally,
        f"a {kind} of another kind, size or content than it should have, cut short, or with bits turned over: refused",
    )


def test_depth_without_a_measurement_is_taken_as_such(ade, tally, trial):  # noqa: F811
    path, reads, _, _ = of_kind("depth map", ade)
    path.write_bytes(png(np.zeros(SIZE, np.uint16), 16))
    trial.taken("all zero", reads[0], path, lambda sample: not sample.depth.any())
    trial.end(tally, "a depth map that is all zero: read as nowhere measured")


# --- what is no file, and names --------------------------------------------------------------------------------------


def special(path: Path, kind: str) -> None:
    """Put something there that is no file with a picture."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere.png")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "empty device":
        path.symlink_to("/dev/null")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            before = os.getcwd()
            os.chdir(path.parent)  # the names of sockets are short
            server.bind(path.name)
            os.chdir(before)


SPECIAL = ["pipe", "folder", "dangling link", "link to itself", "endless device", "empty device", "socket"]


def test_what_is_no_file_is_refused(ade, tally, trial):  # noqa: F811
    for kind in ("picture", "label map", "depth map", "panoptic PNG"):
        path, reads, right, _ = of_kind("label map" if kind == "picture" else kind, ade)
        if kind == "picture":
            path, right = ade / "images/training/a.jpg", JPEG
        for name in SPECIAL:
            special(path, name)
            trial.refused(f"{kind}: {name}", reads[0], path)
            path.rmdir() if name == "folder" else path.unlink()
        outside = ade / "outside"
        outside.write_bytes(right)
        path.symlink_to(outside)
        trial.taken(f"{kind}: a link", reads[0], path, bool)
        path.unlink()
        path.write_bytes(right)
    trial.end(tally, "pipes, devices, sockets, folders and broken links in place of files: refused without a hang")


NAMES = [
    *("with space", "ümläut", "日本語", "new\nline", 'quote"s', "quote's", "-dash", "--out", "$HOME", "*", "%s", "a;b"),
    *("..", "....", "a\\b", "tab\t", "b" * 240, "=", "a=b", "\x1b[31m", "{}", "~", "C:", "#", os.fsdecode(b"\xff\xfe")),
]


def test_names(ade, tally, trial):  # noqa: F811
    shutil.rmtree(ade / "annotations/training")
    shutil.rmtree(ade / "images/training")
    for name in NAMES:
        image, labels = ade / "images/training" / f"{name}.jpg", ade / "annotations/training" / f"{name}.png"
        for path, data in ((image, JPEG), (labels, png(LABELS))):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        if name.startswith("."):  # hidden
            trial.refused(name, lambda: semantic(ade).build("train"), ade / "annotations/training")
        else:
            trial.taken(
                name, lambda: semantic(ade).build("train").load(0), image, lambda read, name=name: read.image_id == name
            )
            image.write_bytes(JPEG[:-100])
            trial.refused(name, lambda: semantic(ade).build("train").load(0), image)
        image.unlink()
        labels.unlink()
    trial.end(tally, "file names with spaces, quotes, line breaks, dashes, other scripts, bytes that are no text: read")


# --- real commands ---------------------------------------------------------------------------------------------------

SEG = "configs/small/seg.yaml"


@pytest.fixture
def copy(scenes, tmp_path) -> Path:
    """Scenes that a test may break, where anybody may read."""
    folder = Path(tempfile.mkdtemp(prefix="hostile"))
    folder.chmod(0o755)
    yield Path(shutil.copytree(scenes / "ADEChallengeData2016", folder / "data"))
    shutil.rmtree(folder)


def commands(data: Path, out: Path) -> list[str]:
    return ["--cfg", SEG, *TINY, f"data.root={data}", f"output_dir={out}", "steps=3"]


@pytest.mark.whole
def test_training_ends_in_one_line(copy, tmp_path, tally, trial):  # noqa: F811
    chosen = dict(spoilt_images(3))
    names = [
        *("JPEG that claims 65500 x 65500", "nothing", "PostScript", "noise 0", "TIFF cut after 90%"),
        *("PNG with an endless text", "JPEG with wrong Huffman tables, byte 12", "JPEG that claims coding c9"),
        *(next(name for name in chosen if name.startswith(start)) for start in ("PNG with bit", "CMYK JPEG cut")),
        next(name for name in reversed(chosen) if name.startswith("progressive JPEG") and name.endswith("with an end")),
    ]
    kinds = {"pipe": None, "endless device": None, **{name: chosen[name] for name in names}}
    folders = ["images/training", "images/validation", "annotations/training", "annotations/validation"]
    for number, (name, data) in enumerate(kinds.items()):
        for folder in folders:
            path = sorted((copy / folder).iterdir())[number % 5]
            whole = path.read_bytes()
            if data is None:
                special(path, name)
            else:
                path.write_bytes(data)
            done = run("train", *commands(copy, tmp_path / f"{number}"), f"run_name={Path(folder).name}{number}")
            trial.command(f"{name}, {folder}", done, path)
            path.unlink()
            path.write_bytes(whole)
    trial.end(tally, "runs of train.py with one spoilt image or label map among good ones: one line, exit code 2")


def nobody() -> None:
    """Root may read everything."""
    "".encode("utf-8-sig")  # Python may be where nobody can read: load now what is loaded late
    importlib.import_module("torch._dynamo")
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.whole
def test_what_may_not_be_read(copy, tally, trial):  # noqa: F811
    (copy / "runs").mkdir()
    (copy / "runs").chmod(0o777)
    image = sorted((copy / "images/training").iterdir())[0]
    for path in (image, copy / "images/training", copy / "annotations", copy):
        mode = path.stat().st_mode
        path.chmod(0)
        done = run("train", "--check", *commands(copy, copy / "runs"), "batch_size=10", sabotage=[nobody])
        path.chmod(mode)
        trial.command(f"{path} without permission", done, path, "permi|Permi")
    trial.end(tally, "a file or folder that may not be read: one line, exit code 2")


@pytest.fixture(scope="module")
def checkpoint(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    done = run("train", *commands(scenes / "ADEChallengeData2016", out))
    assert done.code == 0, done.err
    return out / "seg"


def test_predictions_of_hostile_pictures(checkpoint, tmp_path, every, tally, trial):  # noqa: F811
    """One run: what can be read is predicted at its size, what cannot is named."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sizes: dict[str, tuple[int, ...]] = {}
    for number, (_, data, expected, _) in enumerate(good()):
        if every or number % 8 == 0:
            (folder / f"good {number}.jpg").write_bytes(data)
            sizes[f"good {number}"] = expected.shape[:2]
    for name in NAMES:
        if not name.startswith("."):
            (folder / f"{name}.jpg").write_bytes(JPEG)
            sizes[name] = SIZE
    bad = [data for _, data in spoilt_images(4 if every else 1)]
    for number, data in enumerate(bad):
        (folder / f"bad {number}.png").write_bytes(data)
    for name in SPECIAL:
        if name != "folder":  # left out of a folder's images
            special(folder / f"bad {name}.jpg", name)
    (folder / os.fsdecode(b"bad \xff.jpg")).write_bytes(b"")
    before = {path: path.lstat().st_mtime_ns for path in folder.iterdir()}
    done = run("tools.predict", "--checkpoint", checkpoint, "--out", out, folder, seconds=300)
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1, done.err
    said = done.out + done.err
    assert "Traceback" not in said
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == before
    trial.tried = len(before)
    for name, size in sizes.items():
        with Image.open(out / f"{name}.png") as picture:
            if picture.size != size[::-1]:
                trial.failures.append(f"{name}: {picture.size}")
    for path in folder.iterdir():
        shown = str(path).encode(errors="backslashreplace").decode()
        if path.name.startswith("bad ") and f"{shown}: " not in said:
            trial.failures.append(f"{path!r} is not named")
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(sizes)
    assert sorted(tmp_path.iterdir()) == [folder, out]  # and nowhere else
    trial.end(tally, "a folder of hostile pictures given to tools.predict: the valid ones predicted, all others named")


@pytest.mark.parametrize("kind", SPECIAL)
def test_prediction_of_what_is_no_file(checkpoint, tmp_path, every, tally, trial, kind):  # noqa: F811
    if not every and kind not in ("pipe", "folder"):
        pytest.skip("the shortened suite has two kinds")
    path = tmp_path / "-a.jpg"
    special(path, kind)
    done = run("tools.predict", "--checkpoint", checkpoint, "--out", tmp_path / "out", path)
    trial.command(kind, done, path)
    trial.end(tally, "pipes, devices, sockets, folders and broken links given to tools.predict: one line, exit code 2")


@pytest.mark.whole
def test_a_run_on_hostile_names(copy, tmp_path, tally, trial):  # noqa: F811
    """Trained, scored, drawn, stored and scored again, whatever the images are called."""
    names = [name for name in NAMES if not name.startswith(".")]
    for split in ("training", "validation"):
        image, labels = (copy / kind / split for kind in ("images", "annotations"))
        first = sorted(image.iterdir())[0]
        for name in names:
            shutil.copy(first, image / f"{name}.jpg")
            shutil.copy(labels / f"{first.stem}.png", labels / f"{name}.png")
    words = commands(copy, tmp_path / "runs")
    count = len(names) + 5
    for command in (
        ["train", *words, f"evaluation.pictures={count}"],
        [
            "eval",
            "--checkpoint",
            tmp_path / "runs/seg",
            "--predictions",
            tmp_path / "out",
            "--json",
            tmp_path / "a.json",
        ],
        ["tools.score", *words, "--predictions", tmp_path / "out", "--json", tmp_path / "b.json"],
    ):
        done = run(*command, seconds=300)
        trial.tried += len(names)
        if done.code != 0 or done.err:
            trial.failures.append(f"{command[0]} ended with {done.code}: {done.err[-2000:]}")
    pictures = list((tmp_path / "runs/seg/pictures").rglob("*.png"))
    trial.end(tally, "runs on images with such names: trained, drawn, predicted and scored")
    assert {path.stem for path in pictures} >= set(names)
    assert len(list((tmp_path / "out").iterdir())) == count
    assert read(tmp_path / "a.json")["metrics"] == read(tmp_path / "b.json")["metrics"]
