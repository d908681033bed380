from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from config import validate
from datasets.base import Survey
from datasets.nyu.dataset import NYUConfig
from datasets.nyu.scale import DepthCount
from errors import UserError

SurveyOf = Callable[..., Survey]


def ramp(low: float = 500, high: float = 6000) -> np.ndarray:
    """A depth map as sensors give it: smooth, in millimetres, with a hole."""
    values = np.linspace(low, high, 60 * 80).reshape(60, 80)
    values[5:9, 3:20] = 0
    return values.astype(np.uint16)


@pytest.fixture
def survey_of(tmp_path: Path) -> SurveyOf:
    """Store depth maps and black images, and survey them."""

    def survey(*maps: np.ndarray, image: np.ndarray | None = None, **options: Any) -> Survey:
        for folder in ("rgb", "depth"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for number, values in enumerate(maps):
            pixels = np.zeros((*values.shape, 3), np.uint8) if image is None else image
            assert cv2.imwrite(str(tmp_path / f"rgb/{number:03}.png"), pixels)
            assert cv2.imwrite(str(tmp_path / f"depth/{number:03}.png"), values)
        data = {"root": str(tmp_path), "train_images": "rgb", "train_depths": "depth", **options}
        transforms = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}
        return validate(NYUConfig, {**data, **transforms}, "data").build("train").survey()

    return survey


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pixels_are_counted_by_what_becomes_of_them(survey_of: SurveyOf) -> None:
    values = np.array([[0, 5, 1000, 2000, 9000, 10000, 10001, 65535]], np.uint16)
    survey = survey_of(values, min_depth=0.5)
    assert survey.counts == {"depth": 4}
    assert survey.left_out == {"without measurement": 1, "nearer than 0.5 m": 1, "farther than 10 m": 2}
    assert survey.read == ""


def test_pixels_count_as_they_are_read(tmp_path: Path) -> None:
    """The limits are compared in float32, as in `NYU.load`."""
    values = np.arange(1, 2**16, dtype=np.uint16)[None]
    depth = values.astype(np.float32) / np.float32(256)
    count = DepthCount(256, 0.1, 80.3)
    count.add(tmp_path, values)
    assert count.measured == ((depth >= 0.1) & (depth <= 80.3)).sum()


def test_large_sets_are_sampled_evenly(survey_of: SurveyOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.nyu.dataset.SURVEYED_MAPS", 3)
    maps = [np.full((4, 5), 1000 * (number < 3 or number % 3 == 0), np.uint16) for number in range(9)]
    survey = survey_of(*maps)
    assert survey.read == "3 of 9 depth maps"
    assert survey.counts == {"depth": 60}


def test_all_maps_are_read_before_none_is_left(survey_of: SurveyOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.nyu.dataset.SURVEYED_MAPS", 2)
    maps = [np.full((4, 5), 1000 * (number == 3), np.uint16) for number in range(4)]
    assert survey_of(*maps).counts == {"depth": 20}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros((4, 5)), "no depth map has a measurement: all values are 0"),
        (np.full((4, 5), 40000), "has a depth from 0.001 to 10 m (data.min_depth, max_depth): their values are 40000"),
    ],
)
def test_nothing_measured_is_an_error(survey_of: SurveyOf, values: np.ndarray, expected: str) -> None:
    message = refused(lambda: survey_of(values.astype(np.uint16)))
    assert expected in message
    assert "set data.depth_scale (now 1000 units per metre) or data.max_depth" in message


@pytest.mark.parametrize("odd", [ramp(250, 380), ramp(8000, 9000), ramp(50, 190), ramp(20000, 60000)])
def test_one_odd_frame_is_taken_as_it_is(survey_of: SurveyOf, odd: np.ndarray) -> None:
    assert survey_of(ramp(), odd, ramp(800, 4500), max_depth=5).warnings == []


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ((ramp() >> 5) * 257, {}, "2 of 3 depth maps seem (the first: {}) to hold 8-bit depth stretched to 16 bits"),
        ((ramp() >> 5) * 256, {}, "all values are multiples of 256 or 257; take the 16-bit originals"),
        (ramp() >> 5, {}, "to have no value above 255, as in copies of 8-bit depth"),
        (
            ramp(5000, 60000),
            {},
            "mostly farther than 15 m, where data.max_depth is 10; if that is wrong, correct data.",
        ),
        (ramp(), {"depth_scale": 40000}, "to have no depth beyond 0.2 m, a fiftieth of data.max_depth; if that is"),
        (ramp(1500, 8000), {"depth_scale": 256}, "mostly farther than 15 m"),
    ],
)
def test_what_looks_wrong_in_most_maps_is_a_warning(
    survey_of: SurveyOf, tmp_path: Path, values: np.ndarray, options: dict[str, Any], expected: str
) -> None:
    (warning,) = survey_of(values, ramp(), values, **options).warnings
    assert expected.format(tmp_path / "depth/000.png") in warning


@pytest.mark.parametrize("room", [(900, 1100), (2000, 2300), (600, 9990), (4000, 9000)])
def test_swapped_bytes_in_nearly_all_maps_are_an_error(survey_of: SurveyOf, room: tuple[int, int]) -> None:
    message = refused(lambda: survey_of(*[ramp(*room).byteswap()] * 10, ramp()))
    assert "10 of 11 depth maps seem" in message
    assert "swapped bytes: in the other order their values stay below max_depth, 10 m; write PNGs from" in message


def test_swapped_bytes_in_one_map_are_a_warning(survey_of: SurveyOf) -> None:
    (warning,) = survey_of(ramp(), ramp().byteswap(), ramp()).warnings
    assert warning.startswith("1 of 3 depth maps seem")


@pytest.mark.parametrize(
    ("values", "scale", "max_depth"),
    [
        (ramp(), 1000, 10),
        (ramp(9000, 9999), 1000, 10),
        (ramp(101, 400), 1000, 10),
        (ramp(9000, 20000), 1000, 10),
        (np.where(ramp() < 3500, ramp(), 65535).astype(np.uint16), 1000, 10),
        (np.where(np.arange(4800).reshape(60, 80) < 40, 3, 0).astype(np.uint16), 1000, 10),  # too few to tell
        (np.full((20, 30), 2560, np.uint16), 1000, 10),
        (ramp(1000, 14000), 1000, 10),
        (ramp(512, 20000), 256, 80),
        (ramp(10, 240), 5, 100),
        (np.random.default_rng(0).integers(0, 10000, (30, 40)).astype(np.uint16), 1000, 10),
    ],
)
def test_depth_that_may_be_right_is_no_warning(
    survey_of: SurveyOf, values: np.ndarray, scale: float, max_depth: float
) -> None:
    assert survey_of(values, depth_scale=scale, max_depth=max_depth).warnings == []


def test_damaged_maps_stop_before_the_start(survey_of: SurveyOf, tmp_path: Path) -> None:
    survey_of(ramp())
    path = tmp_path / "depth/000.png"
    path.write_bytes(path.read_bytes()[:-50])
    assert "000.png: is damaged or truncated" in refused(survey_of)


def test_images_of_few_grey_levels_stop_before_the_start(survey_of: SurveyOf) -> None:
    image = (7200 + np.arange(60 * 80).reshape(60, 80) % 1500).astype(np.uint16)
    message = refused(lambda: survey_of(ramp(), image=image))
    assert "set 'data.image_range=[7200, 8699]' (the values of black and white), or data.image_range=full" in message
    assert survey_of(ramp(), image=image, image_range=[7200, 8699]).counts
