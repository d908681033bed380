"""Objects under the functions that change a sample's geometry."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from datasets.base import Objects, Sample
from datasets.geometry import crop, flip, pad, resize
from structures import Size

SEEDS = range(12)


def objects(sample: Sample) -> Objects:
    assert sample.objects is not None
    return sample.objects


def masks(sample: Sample) -> np.ndarray:
    found = objects(sample).masks
    assert found is not None
    assert found.dtype == bool
    assert found.shape == (len(objects(sample).boxes), *sample.image.shape[:2])
    return found


def ellipses(seed: int, count: int = 5) -> Sample:
    """Ellipses with the boxes of their pixels; labels tell them apart, every third is a crowd."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(40, 90, 2))
    rows, columns = np.mgrid[:height, :width]
    centres, radii = rng.uniform(8, [height - 8, width - 8], (count, 2)), rng.uniform(4, 20, (count, 2))
    y, x, b, a = np.concatenate([centres, radii], axis=1).T[:, :, None, None]
    found = ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1
    boxes = np.array([bounds(mask) for mask in found], np.float32)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    things = Objects(boxes, np.arange(count), np.arange(count) % 3 == 0, masks=found)
    return Sample("1", (height, width), image, objects=things)


def rectangles(seed: int) -> Sample:
    """The same with the boxes as masks: of these, nearest pixels lose no thin tips."""
    sample = ellipses(seed)
    filled = np.zeros_like(masks(sample))
    for mask, (x1, y1, x2, y2) in zip(filled, objects(sample).boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return replace(sample, objects=replace(objects(sample), masks=filled))


def bounds(mask: np.ndarray) -> list[int]:
    """xyxy of the pixels, each a square from its index to the next."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def assert_boxes_enclose(sample: Sample, tolerance: float) -> None:
    for box, mask in zip(objects(sample).boxes, masks(sample), strict=True):
        assert np.abs(box - bounds(mask)).max() <= tolerance


def assert_same(one: Sample, other: Sample) -> None:
    for name in ("boxes", "labels", "crowd", "masks"):
        assert np.array_equal(getattr(objects(one), name), getattr(objects(other), name)), name


@pytest.mark.parametrize("seed", SEEDS)
def test_flipping_mirrors_boxes_and_masks(seed: int) -> None:
    sample = ellipses(seed)
    once = flip(sample)
    assert_boxes_enclose(once, 0)
    assert np.array_equal(masks(once), masks(sample)[:, :, ::-1])
    assert np.array_equal(objects(once).labels, objects(sample).labels)
    assert np.array_equal(objects(once).crowd, objects(sample).crowd)
    assert_same(flip(once), sample)


def test_flipping_in_closed_form() -> None:
    things = Objects(np.array([[1, 2, 4, 7]], np.float32), np.array([3]), np.array([True]))
    sample = Sample("1", (8, 10), np.zeros((8, 10, 3), np.uint8), objects=things)
    assert objects(flip(sample)).boxes.tolist() == [[6, 2, 9, 7]]
    assert objects(sample).boxes.tolist() == [[1, 2, 4, 7]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [(37, 91), (120, 33), (160, 200)])
def test_resized_boxes_follow_the_masks_within_a_pixel(seed: int, size: Size) -> None:
    sample = rectangles(seed)
    other = resize(sample, size)
    assert_boxes_enclose(other, 1)
    factors = np.array([size[1] / sample.size[1], size[0] / sample.size[0]] * 2)
    assert np.allclose(objects(other).boxes, objects(sample).boxes * factors, rtol=1e-6)
    assert np.array_equal(objects(other).labels, objects(sample).labels)
    assert np.array_equal(objects(other).crowd, objects(sample).crowd)
    assert objects(other).boxes.dtype == np.float32


@pytest.mark.parametrize("factor", [2, 3])
def test_whole_factors_repeat_pixels(factor: int) -> None:
    sample = ellipses(0)
    larger = resize(sample, (sample.size[0] * factor, sample.size[1] * factor))
    assert np.array_equal(masks(larger), masks(sample).repeat(factor, axis=1).repeat(factor, axis=2))
    assert_boxes_enclose(larger, 0)
    assert_same(resize(larger, sample.size), sample)


@pytest.mark.parametrize("seed", SEEDS)
def test_cropping_cuts_boxes_and_drops_what_is_outside(seed: int) -> None:
    sample, rng = ellipses(seed), np.random.default_rng(seed)
    top, left = int(rng.integers(0, 30)), int(rng.integers(0, 30))
    window = crop(sample, top, left, (20, 24))
    inside = masks(sample)[:, top : top + 20, left : left + 24]
    kept = inside.any(axis=(1, 2))
    assert objects(window).labels.tolist() == np.flatnonzero(kept).tolist()
    assert objects(window).crowd.tolist() == (np.flatnonzero(kept) % 3 == 0).tolist()
    assert np.array_equal(masks(window), inside[kept])
    height, width = window.image.shape[:2]
    for box, mask in zip(objects(window).boxes, masks(window), strict=True):
        x1, y1, x2, y2 = bounds(mask)  # a part of an ellipse may be narrower than the part of its box
        assert 0 <= box[0] <= x1 < x2 <= box[2] <= width
        assert 0 <= box[1] <= y1 < y2 <= box[3] <= height


def test_cropping_in_closed_form_without_masks() -> None:
    boxes = np.array([[0, 0, 5, 5], [4, 4, 30, 30], [0, 0, 2, 9], [8, 1, 9, 3]], np.float32)
    things = Objects(boxes, np.arange(4), np.array([False, True, False, False]))
    sample = Sample("1", (40, 40), np.zeros((40, 40, 3), np.uint8), objects=things)
    window = objects(crop(sample, 3, 2, (10, 12)))
    assert window.boxes.tolist() == [[0, 0, 3, 2], [2, 1, 12, 10]]
    assert window.labels.tolist() == [0, 1]
    assert window.crowd.tolist() == [False, True]
    assert window.masks is None


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_moves_nothing(seed: int) -> None:
    sample = ellipses(seed)
    height, width = sample.size
    larger = pad(sample, (height + 7, width + 5))
    assert larger.image.shape == (height + 7, width + 5, 3)
    assert_boxes_enclose(larger, 0)
    assert np.array_equal(masks(larger)[:, :height, :width], masks(sample))
    assert masks(larger).sum() == masks(sample).sum()
    assert_same(crop(larger, 0, 0, sample.size), sample)


def test_no_objects_stay_no_objects() -> None:
    sample = ellipses(0)
    nothing = Objects(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros((0, *sample.size), bool)
    )
    sample = replace(sample, objects=nothing)
    for changed in (
        flip(sample),
        resize(sample, (30, 50)),
        crop(sample, 3, 4, (9, 9)),
        pad(sample, (99, 99)),
    ):
        assert objects(changed).boxes.shape == (0, 4)
        assert len(masks(changed)) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_of_all_keeps_boxes_on_their_masks(seed: int) -> None:
    sample = rectangles(seed)
    rows, columns = sample.size
    chain = pad(crop(flip(resize(sample, (rows * 3 // 2, columns * 4 // 3))), 5, 9, (40, 50)), (64, 64))
    assert_boxes_enclose(chain, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_column", [False, True])
def test_resized_masks_are_those_of_opencv(seed: int, by_column: bool) -> None:
    sample = ellipses(seed)
    found = masks(sample)
    found[0] = False  # nothing of it is left
    found[1] = True
    if by_column:  # as decoded masks are stored
        found = np.ascontiguousarray(found.transpose(0, 2, 1)).transpose(0, 2, 1)
    sample = replace(sample, objects=replace(objects(sample), masks=found))
    for height, width in np.random.default_rng(seed).integers(1, 300, (5, 2)).tolist():
        resized = masks(resize(sample, (height, width)))
        for mask, result in zip(found, resized, strict=True):
            bitmap = np.ascontiguousarray(mask).view(np.uint8)
            expected = cv2.resize(bitmap, (width, height), interpolation=cv2.INTER_NEAREST)
            assert np.array_equal(result, expected)
