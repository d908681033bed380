import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.files.images import read_image, read_label_map, read_rgb_png
from errors import UserError
from tests.datasets.png import GREY, RGB, chunk, png


def smooth(height: int = 24, width: int = 36) -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def stored(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path, **options)
    return path


def assert_one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# --- images ----------------------------------------------------------------------------------------------------------


def test_png_is_read_exactly(tmp_path: Path) -> None:
    assert np.array_equal(read_image(stored(tmp_path / "a.png", smooth())), smooth())


def test_jpeg_is_decoded_by_opencv(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.jpg", smooth(), quality=90)
    assert np.array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey_gets_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    image = read_image(stored(tmp_path / f"a.{suffix}", smooth()[..., 0], quality=95))
    assert image.shape == (24, 36, 3)
    assert np.array_equal(image[..., 0], image[..., 2])
    assert abs(image[..., 0].astype(int) - smooth()[..., 0]).max() <= 8


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("filled", [False, True])
def test_truncated_jpeg_is_refused(tmp_path: Path, progressive: bool, kept: float, filled: bool) -> None:
    exif = Image.Exif()  # with a complete JPEG inside, as a camera's thumbnail
    thumbnail = BytesIO()
    Image.fromarray(smooth(4, 4)).save(thumbnail, format="JPEG")
    exif[0x9286] = thumbnail.getvalue()
    path = stored(tmp_path / "a.jpg", smooth(100, 120), quality=95, progressive=progressive, exif=exif)
    data = path.read_bytes()
    end = max(int(kept * len(data)), data.rfind(b"\xff\xda") + 20 if not progressive else 0)
    path.write_bytes(data[:end] + bytes(len(data) - end) * filled)
    with pytest.raises(UserError) as error:
        read_image(path)
    assert_one_line(error, str(path), "truncated")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")


# --- label maps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_values_are_read_as_stored(tmp_path: Path, dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (7, 9)).astype(dtype)
    cv2.imwrite(str(tmp_path / "a.png"), labels)
    result = read_label_map(tmp_path / "a.png")
    assert result.dtype == dtype
    assert np.array_equal(result, labels)


def test_palette_indices_are_the_labels(tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    picture = Image.fromarray(labels, mode="L").convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    assert np.array_equal(read_label_map(stored(tmp_path / "a.png", picture)), labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_labels_of_few_bits_keep_their_values(tmp_path: Path, bits: int, palette: bool) -> None:
    labels = (np.arange(32, dtype=np.uint8) % 2**bits).reshape(4, 8)
    if palette:
        picture = Image.new("P", (8, 4))
        picture.putpalette([value for index in range(2**bits) for value in (index, 200, 3)])
        picture.putdata(labels.ravel().tolist())
        stored(tmp_path / "a.png", picture, bits=bits)
    else:
        (tmp_path / "a.png").write_bytes(png(labels, bits))
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_coloured_label_map_is_refused(tmp_path: Path, mode: str) -> None:
    path = stored(tmp_path / "a.png", Image.fromarray(smooth()).convert(mode))
    with pytest.raises(UserError) as error:
        read_label_map(path)
    assert_one_line(error, str(path), f"kind {mode}", "single-channel")


def test_lossy_label_map_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.png", smooth()[..., 0], format="JPEG")
    with pytest.raises(UserError, match="is a JPEG file; store labels as PNG"):
        read_label_map(path)


# --- values in PNGs --------------------------------------------------------------------------------------------------

SHOWN_DIFFERENTLY = {  # chunks that change how viewers show the pixels
    "gamma": chunk(b"gAMA", struct.pack(">I", 45455)),
    "depth": chunk(b"sBIT", b"\5\5\5"),
    "turned": chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("extra", [*SHOWN_DIFFERENTLY, "transparent"])
@pytest.mark.parametrize("color", [GREY, RGB])
def test_values_are_read_as_stored(tmp_path: Path, color: int, extra: str, interlaced: bool) -> None:
    channels = 3 if color == RGB else 1
    values = np.random.default_rng(0).integers(0, 4, (11, 9, channels))
    more = SHOWN_DIFFERENTLY | {
        "transparent": chunk(b"tRNS", b"\0\2" * channels),
        "depth": chunk(b"sBIT", b"\5" * channels),
    }
    path = tmp_path / "a.png"
    path.write_bytes(png(values, 8, color, extra=more[extra], interlaced=interlaced))
    found = read_rgb_png(path, "colours") if color == RGB else read_label_map(path)[..., None]
    assert found.dtype == np.uint8
    assert np.array_equal(found, values)


@pytest.mark.parametrize("color", [GREY, RGB])
def test_pixels_that_no_decoder_takes_are_named(tmp_path: Path, color: int) -> None:
    rows = b"\7" + bytes(9 if color == GREY else 27)  # there is no filter 7
    whole = png(np.zeros((1, 9, 1 if color == GREY else 3), np.int64), 8, color)
    start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(whole[:start] + chunk(b"IDAT", zlib.compress(rows)) + whole[end:])
    with pytest.raises(UserError) as error:
        read_rgb_png(path, "colours") if color == RGB else read_label_map(path)
    assert_one_line(error, str(path), "damaged")
