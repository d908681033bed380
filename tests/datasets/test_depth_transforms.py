"""The transforms that depth brought: window, rotation and gamma; and DepthFormer's whole recipe on NYU."""

from math import cos, radians, sin
from typing import Any

import numpy as np
import pytest

from datasets.base import Objects, Sample
from datasets.geometry import rotate
from datasets.transforms import apply_all
from errors import UserError
from structures import IGNORE
from tests.datasets.test_transforms import Scripted, make, maps, sample

NYU_RECIPE = [
    {"name": "crop_window", "top": 45, "left": 43, "size": [427, 565]},
    {"name": "random_rotate"},
    {"name": "random_flip"},
    {"name": "random_crop", "size": [416, 544]},
    {"name": "gamma_jitter"},
    {"name": "normalize"},
]


def objects() -> Objects:
    return Objects(np.zeros((1, 4), np.float32), np.zeros(1, np.int64), np.zeros(1, bool))


# --- window ----------------------------------------------------------------------------------------------------------


def test_window_of_nyu_is_rows_45_to_471_and_columns_43_to_607() -> None:
    before = sample(480, 640)
    after = make("crop_window", top=45, left=43, size=[427, 565]).apply(before, Scripted())
    assert np.array_equal(after.image, before.image[45:472, 43:608])
    for old, new in zip(maps(before), maps(after), strict=True):
        assert np.array_equal(new, old[45:472, 43:608])


def test_image_that_does_not_hold_the_window_is_named() -> None:
    window = make("crop_window", top=10, left=0, size=[30, 60])
    assert window.apply(sample(40, 60), Scripted()).image.shape == (30, 60, 3)
    for size in ((39, 60), (40, 59)):
        with pytest.raises(UserError, match=r"image a is .* reaches to column 60, row 40; take it out"):
            window.apply(sample(*size), Scripted())


# --- rotation --------------------------------------------------------------------------------------------------------


def sources(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, as fractions, that come to lie on each pixel of an image turned anticlockwise."""
    angle = radians(degrees)
    y, x = np.indices((height, width), dtype=float) - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    return y * cos(angle) + x * sin(angle) + (height - 1) / 2, x * cos(angle) - y * sin(angle) + (width - 1) / 2


@pytest.mark.parametrize("degrees", [2.5, -1.3, 30])
def test_rotation_takes_the_nearest_label_and_depth(degrees: float) -> None:
    before = sample(41, 60)
    after = rotate(before, degrees)
    rows, columns = sources(41, 60, degrees)
    clear = (abs(rows % 1 - 0.5) > 0.01) & (abs(columns % 1 - 0.5) > 0.01)  # elsewhere rounding decides
    rows, columns = np.rint(rows).astype(int), np.rint(columns).astype(int)
    inside = (rows >= 0) & (rows < 41) & (columns >= 0) & (columns < 60)
    assert 0 < inside.sum() < inside.size
    for old, new, fill in zip(maps(before), maps(after), (IGNORE, 0), strict=True):
        expected = np.where(inside, old[rows.clip(0, 40), columns.clip(0, 59)], fill)
        assert new.dtype == old.dtype
        assert np.array_equal(new[clear], expected[clear])
        assert set(np.unique(new)) <= {*np.unique(old), fill}


def test_rotated_image_is_bilinear_over_black() -> None:
    before = sample(41, 60)
    rows, columns = sources(41, 60, 2.5)
    framed = np.pad(before.image.astype(float), [(2, 2), (2, 2), (0, 0)])  # the frame is black
    rows, columns = (rows + 2).clip(0, 43.99), (columns + 2).clip(0, 62.99)
    top, left = rows.astype(int), columns.astype(int)
    y, x = (rows - top)[..., None], (columns - left)[..., None]
    upper = framed[top, left] * (1 - x) + framed[top, left + 1] * x
    lower = framed[top + 1, left] * (1 - x) + framed[top + 1, left + 1] * x
    expected = upper * (1 - y) + lower * y
    assert abs(rotate(before, 2.5).image - expected).max() < 10  # OpenCV takes positions to 1/32 of a pixel
    assert abs(rotate(before, 2.5).image - expected).mean() < 1.5


def test_quarter_turn_is_anticlockwise() -> None:
    before = sample(40, 40)
    after = rotate(before, 90)
    assert np.array_equal(after.image, np.rot90(before.image))
    for old, new in zip(maps(before), maps(after), strict=True):
        assert np.array_equal(new, np.rot90(old))


def test_rotation_draws_whether_and_then_the_angle() -> None:
    turn = make("random_rotate", degrees=10, probability=0.3)
    assert turn.apply(sample(), Scripted(0.3)).image is not None
    assert np.array_equal(turn.apply(sample(), Scripted(0.3)).image, sample().image)
    turned = turn.apply(sample(), Scripted(0.29, 0.75))
    assert np.array_equal(turned.image, rotate(sample(), 5).image)
    assert not np.array_equal(turned.image, sample().image)


def test_rotation_leaves_its_input_alone() -> None:
    before = sample()
    rotate(before, 30)
    assert np.array_equal(before.image, sample().image)
    assert np.array_equal(maps(before)[1], maps(sample())[1])


def test_objects_cannot_be_rotated() -> None:
    one = Sample("a", (4, 4), np.zeros((4, 4, 3), np.uint8), objects=objects())
    with pytest.raises(UserError, match="cannot rotate the boxes"):
        rotate(one, 1)


# --- gamma -----------------------------------------------------------------------------------------------------------


def test_gamma_is_taken_on_0_to_255() -> None:
    grey = Sample("a", (1, 3), np.repeat(np.array([[[0], [100], [255]]], np.uint8), 3, axis=2))
    jitter = make("gamma_jitter", probability=1)
    brighter = jitter.apply(grey, Scripted(0, 1, 0.5, 0.5, 0.5, 0.5)).image  # gamma 1.1, no other change
    darker = jitter.apply(grey, Scripted(0, 0, 0.5, 0.5, 0.5, 0.5)).image
    assert brighter[0, :, 0].tolist() == [0, 158, 255]
    assert darker[0, :, 0].tolist() == [0, 63, 147]


@pytest.mark.parametrize("seed", range(5))
def test_jitter_equals_a_literal_one_with_the_same_draws(seed: int) -> None:
    gamma, brightness, red, green, blue = draws = np.random.default_rng(seed).random(5)
    before = sample(seed=seed)
    after = make("gamma_jitter").apply(before, Scripted(0.49, *draws))
    expected = before.image.astype(float) ** (0.9 + 0.2 * gamma) * (0.75 + 0.5 * brightness)
    expected *= np.array([0.9 + 0.2 * red, 0.9 + 0.2 * green, 0.9 + 0.2 * blue])
    assert after.image.dtype == np.uint8
    assert np.array_equal(after.image, np.rint(np.clip(expected, 0, 255)))
    assert np.array_equal(maps(after)[1], maps(before)[1])
    assert np.array_equal(before.image, sample(seed=seed).image)


def test_jitter_may_do_nothing() -> None:
    assert np.array_equal(make("gamma_jitter").apply(sample(), Scripted(0.5)).image, sample().image)


# --- all -------------------------------------------------------------------------------------------------------------


def test_recipe_of_nyu_ends_at_its_size_and_repeats_for_a_seed() -> None:
    transforms = tuple(make(**record) for record in NYU_RECIPE)  # type: ignore[arg-type]
    before = sample(480, 640)
    truth = maps(before)[1]
    for seed in range(4):
        first, second = (apply_all(transforms, before, np.random.default_rng(seed)) for _ in range(2))
        assert first.image.shape == (416, 544, 3)
        assert first.image.dtype == np.float32
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(maps(first)[1], maps(second)[1])
        depth = maps(first)[1]
        assert np.isin(depth[depth > 0], truth).all()  # nothing between two measurements is made up


@pytest.mark.parametrize(
    "record",
    [
        {"name": "crop_window", "top": -1, "left": 0, "size": [4, 4]},
        {"name": "crop_window", "top": 0, "left": 0, "size": [0, 4]},
        {"name": "random_rotate", "degrees": -1},
        {"name": "random_rotate", "probability": 2},
        {"name": "gamma_jitter", "gamma": [1.1, 0.9]},
        {"name": "gamma_jitter", "brightness": [0, 1]},
    ],
)
def test_impossible_options_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=record["name"]):
        make(**record)
