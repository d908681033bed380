from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import TypeAdapter

from datasets.base import Sample, Transform
from datasets.geometry import crop, flip, pad, resize
from datasets.transforms import TransformConfig, apply_all
from errors import UserError
from structures import IGNORE


def make(name: str, **options: Any) -> Transform:
    return TypeAdapter(TransformConfig).validate_python({"name": name, **options})  # type: ignore[no-any-return]


def sample(height: int = 40, width: int = 60, seed: int = 0, classes: int = 5) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        "a",
        (height, width),
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        semantic=rng.integers(IGNORE, classes, (height, width)).astype(np.int16),
        depth=rng.uniform(0.5, 10, (height, width)).astype(np.float32),
    )


def maps(one: Sample) -> tuple[np.ndarray, np.ndarray]:
    assert one.semantic is not None
    assert one.depth is not None
    return one.semantic, one.depth


class Scripted(np.random.Generator):
    """A generator that gives out prepared numbers."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = list(numbers)

    def random(self) -> float:  # type: ignore[override]
        return self.numbers.pop(0)

    def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
        return low + (high - low) * self.numbers.pop(0)

    def integers(self, low: int, high: int | None = None, endpoint: bool = False) -> int:  # type: ignore[override]
        number = int(self.numbers.pop(0))
        assert (number < low) if high is None else (low <= number < high + endpoint)
        return number


# --- geometry --------------------------------------------------------------------------------------------------------


def test_maps_take_the_nearest_pixel_by_opencvs_rule() -> None:
    before, after = sample(7, 9), resize(sample(7, 9), (17, 5))
    rows, columns = np.arange(17) * 7 // 17, np.arange(5) * 9 // 5
    for old, new in zip(maps(before), maps(after), strict=True):
        assert new.dtype == old.dtype
        assert np.array_equal(new, old[rows][:, columns])


def test_image_is_bilinear_without_antialiasing() -> None:
    image = sample(8, 8).image
    expected = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (3, 5), mode="bilinear")
    difference = resize(sample(8, 8), (3, 5)).image - expected[0].permute(1, 2, 0).numpy()
    assert abs(difference).max() <= 1


def test_antialiasing_is_pillows() -> None:
    expected = np.asarray(Image.fromarray(sample().image).resize((15, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(resize(sample(), (10, 15), antialias=True).image, expected)


def test_crop_takes_one_window_of_everything() -> None:
    before = sample()
    after = crop(before, 3, 50, (20, 30))
    assert after.image.shape == (20, 10, 3)
    assert np.array_equal(after.image, before.image[3:23, 50:])
    for old, new in zip(maps(before), maps(after), strict=True):
        assert np.array_equal(new, old[3:23, 50:])


def test_flip_twice_is_nothing() -> None:
    once, twice = flip(sample()), flip(flip(sample()))
    assert np.array_equal(once.image[:, 0], sample().image[:, -1])
    assert np.array_equal(twice.image, sample().image)
    for old, new in zip(maps(sample()), maps(twice), strict=True):
        assert np.array_equal(new, old)


def test_padding_is_ignored_and_unmeasured() -> None:
    before = sample(4, 6)
    after = pad(before, (5, 3), fill=128)
    assert after.image.shape == (5, 6, 3)
    assert (after.image[4:] == 128).all()
    semantic, depth = maps(after)
    assert (semantic[4:] == IGNORE).all()
    assert (depth[4:] == 0).all()
    assert np.array_equal(semantic[:4], maps(before)[0])


# --- resizing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 683), (512, 683)), ((480, 640), (512, 683)), ((300, 400), (512, 683)), ((100, 1000), (205, 2048))],
)
def test_fit_into_2048_x_512(size: tuple[int, int], expected: tuple[int, int]) -> None:
    result = make("resize_fit", long=2048, short=512).apply(sample(*size), np.random.default_rng(0))
    assert result.image.shape[:2] == maps(result)[0].shape == expected
    assert result.size == size


def test_random_resize_scales_the_box_then_cuts_it_to_integers() -> None:
    transform = make("resize_random", long=200, short=50, ratio_range=[0.5, 2.0])
    # factor 0.5 + 1.5 * 0.3 = 0.95, box (190, 47), scale min(190 / 60, 47 / 40), size 47 x 70.5 + 0.5
    assert transform.apply(sample(), Scripted(0.3)).image.shape == (47, 71, 3)


def test_random_resize_covers_its_range() -> None:
    transform = make("resize_random", long=200, short=40, ratio_range=[0.5, 2.0])
    rng = np.random.default_rng(0)
    heights = [transform.apply(sample(), rng).image.shape[0] for _ in range(300)]
    assert min(heights) in (20, 21)
    assert max(heights) in (78, 79)
    assert abs(np.mean(heights) - 50) < 3


@pytest.mark.parametrize(("size", "expected"), [((40, 60), (64, 64)), ((32, 64), (32, 64)), ((33, 1), (64, 32))])
def test_resize_to_multiple_rounds_up(size: tuple[int, int], expected: tuple[int, int]) -> None:
    result = make("resize_to_multiple", multiple=32).apply(sample(*size), np.random.default_rng(0))
    assert result.image.shape[:2] == expected


@pytest.mark.parametrize(("size", "expected"), [((40, 60), (20, 30)), ((60, 40), (30, 20)), ((20, 100), (10, 50))])
def test_resize_shortest_respects_the_longest(size: tuple[int, int], expected: tuple[int, int]) -> None:
    result = make("resize_shortest", sizes=[20], longest=50).apply(sample(*size), Scripted())
    assert result.image.shape[:2] == expected


def test_resize_shortest_draws_among_its_sizes() -> None:
    transform = make("resize_shortest", sizes=[8, 16, 24], longest=100)
    assert transform.apply(sample(), Scripted(1)).image.shape == (16, 24, 3)


# --- crop ------------------------------------------------------------------------------------------------------------


def test_crop_of_a_smaller_image_is_the_image() -> None:
    result = make("random_crop", size=[64, 20]).apply(sample(), Scripted(0, 17))
    assert np.array_equal(result.image, sample().image[:, 17:37])


def two_sided(classes: int = 2) -> Sample:
    """Left half class 0, right half class 1."""
    semantic = np.zeros((8, 40), np.int16)
    semantic[:, 20:] = classes - 1
    return Sample("a", (8, 40), np.zeros((8, 40, 3), np.uint8), semantic=semantic)


def crop_from(one: Sample, *lefts: int) -> tuple[int, int]:
    """Redraws used, and the right-hand class's number of columns."""
    numbers = [number for left in lefts for number in (0, left)]
    rng = Scripted(*numbers)
    result = make("random_crop", size=[8, 8], max_class_share=0.75).apply(one, rng)
    assert result.semantic is not None
    return len(lefts) - 1 - len(rng.numbers) // 2, int((result.semantic[0] == 1).sum())


def test_crop_is_redrawn_until_no_class_dominates() -> None:
    assert crop_from(two_sided(), 0, 32, 14, 15, 0) == (3, 3)  # shares 1, 1, 0.75 (not below), 0.625


def test_crop_is_redrawn_ten_times_at_most() -> None:
    assert crop_from(two_sided(), *[0] * 10, 13, 16) == (10, 1)


def test_share_is_of_the_labelled_pixels() -> None:
    one = two_sided()
    assert one.semantic is not None
    one.semantic[:, :18] = IGNORE
    assert crop_from(one, 14, 15) == (0, 2)  # four of the window's columns have no label, two each a class


def test_class_rule_without_labels_is_an_error() -> None:
    with pytest.raises(UserError, match="needs semantic labels"):
        make("random_crop", size=[8, 8], max_class_share=0.75).apply(sample().without_annotation(), Scripted(0, 0))


# --- colours ---------------------------------------------------------------------------------------------------------


def literal_step(image: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
    return np.clip(image.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)


def literal_distortion(
    image: np.ndarray, shift: float, contrast: float, early: bool, saturation: float, hue: int
) -> np.ndarray:
    image = literal_step(image, beta=shift)
    if early:
        image = literal_step(image, alpha=contrast)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = literal_step(hsv[..., 1], alpha=saturation)
    hsv = cv2.cvtColor(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if early else literal_step(image, alpha=contrast)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_distortion_equals_a_literal_one_with_the_same_draws(early: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    brightness, contrast, saturation = rng.random(3)
    hue = int(rng.integers(-18, 18))
    draws = [0.1 if early else 0.9, 0.2, brightness, 0.2, contrast, 0.2, saturation, 0.2, hue]
    result = make("photometric_distortion").apply(sample(seed=seed), Scripted(*draws))
    expected = literal_distortion(
        sample(seed=seed).image, 64 * brightness - 32, 0.5 + contrast, early, 0.5 + saturation, hue
    )
    assert result.image.dtype == np.uint8
    assert np.array_equal(result.image, expected)
    assert np.array_equal(maps(result)[0], maps(sample(seed=seed))[0])


def test_distortion_may_do_nothing() -> None:
    result = make("photometric_distortion").apply(sample(), Scripted(0.1, 0.5, 0.5, 0.5, 0.5))
    assert np.array_equal(result.image, sample().image)


@pytest.mark.parametrize(("hue", "largest"), [(None, 17), ([-18, 18], 18)])
def test_hue_shifts_are_inclusive(hue: list[int] | None, largest: int) -> None:
    options = {"brightness": 0, "contrast": [1, 1], "saturation": [1, 1]} | ({} if hue is None else {"hue": hue})
    transform = make("photometric_distortion", **options)
    red = Sample("a", (1, 1), np.array([[[255, 0, 0]]], np.uint8))
    rng = np.random.default_rng(0)
    shifts = set()
    for _ in range(1500):
        pixel = transform.apply(red, rng).image
        degrees = int(cv2.cvtColor(pixel, cv2.COLOR_RGB2HSV)[0, 0, 0])
        shifts.add(degrees if degrees < 90 else degrees - 180)
    assert (min(shifts), max(shifts)) == (-18, largest)


def test_distortion_leaves_its_input_alone() -> None:
    one = sample()
    for seed in range(8):
        make("photometric_distortion").apply(one, np.random.default_rng(seed))
    assert np.array_equal(one.image, sample().image)


def test_normalize_uses_imagenets_numbers() -> None:
    grey = Sample("a", (1, 1), np.full((1, 1, 3), 255, np.uint8))
    image = make("normalize").apply(grey, np.random.default_rng(0)).image
    assert image.dtype == np.float32
    assert image[0, 0] == pytest.approx(
        [(1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))], 1e-4
    )


# --- all -------------------------------------------------------------------------------------------------------------

SEGFORMER = [
    {"name": "resize_random", "long": 128, "short": 32, "ratio_range": [0.5, 2.0]},
    {"name": "random_crop", "size": [32, 32], "max_class_share": 0.75},
    {"name": "random_flip"},
    {"name": "photometric_distortion"},
    {"name": "normalize"},
    {"name": "pad", "size": [32, 32]},
]
MASKFORMER = [
    {"name": "resize_shortest", "sizes": [16, 32, 48], "longest": 64},
    {"name": "random_crop", "size": [32, 32]},
    {"name": "random_flip"},
    {"name": "photometric_distortion", "hue": [-18, 18]},
    {"name": "pad", "size": [32, 32], "fill": 128},
    {"name": "normalize"},
]
FLIPPED_FIRST = [{"name": "random_flip", "probability": 1}, *MASKFORMER]


@pytest.mark.parametrize("recipe", [SEGFORMER, MASKFORMER, FLIPPED_FIRST])
def test_recipes_end_at_their_size_and_repeat_for_a_seed(recipe: list[dict[str, Any]]) -> None:
    transforms = tuple(make(**record) for record in recipe)
    for seed in range(6):
        first, second = (apply_all(transforms, sample(), np.random.default_rng(seed)) for _ in range(2))
        assert first.image.shape == (32, 32, 3)
        assert first.image.dtype == np.float32
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(*(maps(one)[0] for one in (first, second)))
    other = apply_all(transforms, sample(), np.random.default_rng(99))
    assert not np.array_equal(other.image, first.image)


@pytest.mark.parametrize(
    "record",
    [
        {"name": "resize_random", "long": 8, "short": 8, "ratio_range": [2, 1]},
        {"name": "random_crop", "size": [0, 4]},
        {"name": "random_crop", "size": [4, 4], "max_class_share": 0},
        {"name": "resize_shortest", "sizes": [], "longest": 4},
        {"name": "random_flip", "probability": 1.5},
        {"name": "normalize", "std": [0, 1, 1]},
        {"name": "photometric_distortion", "hue": [18, -18]},
        {"name": "pad", "size": [4, 4], "filling": 0},
    ],
)
def test_impossible_options_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=record["name"]):
        make(**record)
