"""Pictures of more than 8 bits per channel."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.files.images import check_image_range, read_image
from errors import UserError

RNG = np.random.default_rng(0)
NARROW = RNG.integers(7200, 8700, (24, 36)).astype(np.uint16)
FULL = RNG.integers(0, 65536, (24, 36, 3)).astype(np.uint16)


def stored(path: Path, values: np.ndarray) -> Path:
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    assert cv2.imwrite(str(path), values)
    return path


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("image_range", [None, "full", (0, 65535)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_full_range_of_16_bits_is_read_as_its_upper_8(
    tmp_path: Path, suffix: str, image_range: Any, channels: int
) -> None:
    values = {1: FULL[..., 0], 3: FULL, 4: np.dstack([FULL, FULL[..., 0]])}[channels]
    expected = grey(values >> 8) if channels == 1 else values[..., :3] >> 8
    image = read_image(stored(tmp_path / f"a.{suffix}", values), image_range)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_part_of_the_range_keeps_its_levels(tmp_path: Path, suffix: str, colour: bool) -> None:
    values = np.dstack([NARROW, NARROW[::-1], NARROW[:, ::-1]]) if colour else NARROW
    image = read_image(stored(tmp_path / f"a.{suffix}", values), (7200, 8699))
    expected = (values.astype(int) - 7200) * 256 // 1500
    assert np.array_equal(image, expected if colour else grey(expected))


def test_12_bits_are_read_as_their_upper_8(tmp_path: Path) -> None:
    values = (FULL[..., 0] >> 4).astype(np.uint16)
    assert np.array_equal(read_image(stored(tmp_path / "a.png", values), (0, 4095)), grey(values >> 4))


def test_values_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 99, 100, 199, 355, 356, 65535]], np.uint16)
    image = read_image(stored(tmp_path / "a.png", values), (100, 355))
    assert image[0, :, 0].tolist() == [0, 0, 0, 99, 255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_handful_of_grey_levels_is_refused_unless_asked_for(tmp_path: Path, suffix: str, colour: bool) -> None:
    path = stored(tmp_path / f"a.{suffix}", np.dstack([NARROW] * 3) if colour else NARROW)
    with pytest.raises(UserError, match=r"less than 32 grey levels; set 'data.image_range=\[72.., 8[67]..\]'"):
        read_image(path)
    assert len(np.unique(read_image(path, "full"))) < 8


@pytest.mark.parametrize("values", [np.uint16(257) * 9, np.array([0, 65535]), np.arange(20) * 256, np.arange(20) * 257])
def test_what_8_bits_hold_too_is_read(tmp_path: Path, values: np.ndarray) -> None:
    values = np.resize(values, (4, 20)).astype(np.uint16)
    assert np.array_equal(read_image(stored(tmp_path / "a.png", values)), grey(values >> 8))


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int16])
def test_numbers_without_natural_range_need_one(tmp_path: Path, kind: type) -> None:
    path = stored(tmp_path / "a.tif", np.array([[-10, 0, 10, 30]], kind))
    for image_range in (None, "full"):
        with pytest.raises(UserError, match=r"of no known range; set 'data.image_range=\[-10, 30\]'"):
            read_image(path, image_range)  # type: ignore[arg-type]
    image = read_image(path, (0, 20))
    assert image[0, :, 0].tolist()[:2] == [0, 0]
    assert 120 <= image[0, 2, 0] <= 128
    assert image[0, 3, 0] == 255


def test_fractions_and_what_is_not_a_number(tmp_path: Path) -> None:
    values = np.array([[0, 0.5, 1, np.nan, np.inf, -np.inf]], np.float32)
    image = read_image(stored(tmp_path / "a.tif", values), (0, 1))
    assert image[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = (NARROW & 255).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "8.tif", exif=exif)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.tif", exif=exif)
    assert np.array_equal(read_image(tmp_path / "16.tif", (0, 255)), read_image(tmp_path / "8.tif"))


def test_8_bit_images_do_not_depend_on_the_range(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.png", (FULL >> 8).astype(np.uint8))
    assert np.array_equal(read_image(path, (7200, 8700)), FULL >> 8)


def test_a_sample_is_judged_by_its_majority(tmp_path: Path) -> None:
    narrow = [stored(tmp_path / f"narrow {number}.png", NARROW + number) for number in range(2)]
    full = stored(tmp_path / "full.png", FULL)
    check_image_range([narrow[0], full], None)
    check_image_range(narrow, (7200, 8700))
    with pytest.raises(UserError, match=r"narrow 0.png: and 1 more of 3 images have 16 bits"):
        check_image_range([*narrow, full], None)
