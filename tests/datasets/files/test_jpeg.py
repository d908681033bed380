"""Harmless oddities of JPEGs are read to the same pixels; what is cut stays refused beside them."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.files.images import read_image
from errors import UserError

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "grey": {},
}
END = b"\xff\xd9"


def smooth() -> np.ndarray:
    small = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (120, 100), interpolation=cv2.INTER_CUBIC)


def jpeg(kind: str) -> bytes:
    file = BytesIO()
    Image.fromarray(smooth()[..., 0] if kind == "grey" else smooth()).save(file, "JPEG", quality=90, **KINDS[kind])
    return file.getvalue()


def with_scan_header(data: bytes, values: bytes) -> bytes:
    """With these last three bytes in the header of the first scan."""
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
    return data[: end - 3] + values + data[end:]


def segment(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2) + content


def planes(luma: bytes) -> bytes:
    """A baseline file with a scan for each component: a progressive header is not needed for several scans."""
    table = bytes([0]) + bytes([1] * 64)
    huffman = bytes([0x00]) + bytes([0, 1] + [0] * 14) + b"\0" + bytes([0x10]) + bytes([0, 1] + [0] * 14) + b"\0"
    frame = bytes([8, 0, 8, 0, 8, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    scans = [segment(0xDA, bytes([1, number, 0, *luma])) + b"\x0f" for number in (1, 2, 3)]
    return b"\xff\xd8" + segment(0xDB, table) + segment(0xC0, frame) + segment(0xC4, huffman) + b"".join(scans) + END


def read(tmp_path: Path, data: bytes) -> np.ndarray:
    (tmp_path / "a.jpg").write_bytes(data)
    return read_image(tmp_path / "a.jpg")


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, data)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "progressive"])
@pytest.mark.parametrize("values", [b"\0\0\0", b"\0\x3f\x11", b"\1\5\x21"])
def test_fields_that_mean_nothing_for_sequential_files(tmp_path: Path, kind: str, values: bytes) -> None:
    data = jpeg(kind)
    assert np.array_equal(read(tmp_path, with_scan_header(data, values)), read(tmp_path, data))


def test_a_progressive_file_that_lacks_coefficients_is_truncated(tmp_path: Path) -> None:
    data = jpeg("progressive")
    last = data.rindex(b"\xff\xda")
    assert "truncated" in refused(tmp_path, data[:last] + END)


@pytest.mark.parametrize("values", [b"\0\x3f\0", b"\0\0\0"])
def test_a_sequential_file_needs_a_scan_of_every_component(tmp_path: Path, values: bytes) -> None:
    data = planes(values)
    assert read(tmp_path, data).shape == (8, 8, 3)
    last = data.rindex(b"\xff\xda")
    assert "truncated" in refused(tmp_path, data[:last] + END)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [b"\0", bytes(5), bytes(700), b"\x12\x34\x56\x78" * 4])
def test_bytes_between_the_last_pixel_and_the_end(tmp_path: Path, kind: str, more: bytes) -> None:
    data = jpeg(kind)
    assert np.array_equal(read(tmp_path, data[:-2] + more + END), read(tmp_path, data))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_between_segments(tmp_path: Path, kind: str) -> None:
    data = jpeg(kind)
    place = data.index(b"\xff\xdb")
    assert np.array_equal(read(tmp_path, data[:place] + b"abc" + data[place:]), read(tmp_path, data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\7"),
        segment(0xE0, b"JFIF\0\x09\1\0\0\1\0\1\0\0"),
        segment(0xE2, b"ICC_PROFILE\0\5\2rest"),
        segment(0xEB, b"unknown"),
        segment(0xFE, END * 9),
    ],
)
def test_metadata_that_decoders_warn_about(tmp_path: Path, kind: str, more: bytes) -> None:
    data = jpeg(kind)
    jfif = re.search(rb"\xff\xe0..JFIF", data, re.S)
    assert jfif is not None
    rest = data[2 + 18 :]
    assert np.array_equal(read(tmp_path, data[:2] + more + rest), read(tmp_path, data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", ["nothing", "scan header", "Adobe", "JFIF", "bytes between segments"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_what_is_cut_stays_refused_beside_harmless_oddities(tmp_path: Path, kind: str, odd: str, kept: float) -> None:
    """A decoder prints its first warning alone."""
    data = jpeg(kind)
    start = data.index(b"\xff\xda") + 20
    cut = data[: start + int(kept * (len(data) - start))] + END
    if odd == "scan header" and kind != "progressive":
        cut = with_scan_header(cut, b"\0\0\0")
    elif odd == "Adobe":
        cut = cut[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\7") + cut[20:]
    elif odd == "JFIF":
        cut = cut[:11] + b"\x09" + cut[12:]
    elif odd == "bytes between segments":
        cut = cut[:20] + b"abc" + cut[20:]
    assert "truncated" in refused(tmp_path, cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_what_was_cut_and_filled_up_stays_refused(tmp_path: Path, kind: str, fill: bytes, kept: float) -> None:
    data = jpeg(kind)
    start = data.index(b"\xff\xda") + 20
    end = start + int(kept * (len(data) - start))
    for tail in (END, b""):
        assert "truncated" in refused(tmp_path, data[:end] + fill * (len(data) - end - 2) + tail)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_end_marker_is_truncated(tmp_path: Path, kind: str) -> None:
    assert "truncated" in refused(tmp_path, jpeg(kind)[:-2])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_end(tmp_path: Path, kind: str) -> None:
    data = jpeg(kind)
    for more in (bytes(3000), data, b"\xff\xda more", END):
        assert np.array_equal(read(tmp_path, data + more), read(tmp_path, data))


def test_two_pictures_in_one_file_of_a_phone(tmp_path: Path) -> None:
    file = BytesIO()
    second = Image.fromarray(255 - smooth())
    Image.fromarray(smooth()).save(file, "MPO", quality=90, save_all=True, append_images=[second])
    data = file.getvalue()
    expected = read(tmp_path, data)
    assert abs(expected.astype(int) - smooth()).mean() < 6
    assert np.array_equal(read(tmp_path, with_scan_header(data, b"\0\0\0")), expected)
