import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datasets.coco.masks import area_of, decode_runs, encode


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Blobs and single pixels, sometimes nothing or everything, [H, W] uint8 as pycocotools wants it."""
    height, width = rng.integers(1, 90, 2)
    mask = rng.random((height, width)) < rng.choice([0, 0.05, 0.5, 1])
    mask[: rng.integers(height + 1), : rng.integers(width + 1)] ^= True
    return np.asfortranarray(mask.astype(np.uint8))


def literal_runs(mask: np.ndarray) -> list[int]:
    """Lengths of equal pixels, down the columns, from 0 on."""
    runs, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("seed", range(30))
def test_run_lengths_of_all_forms_agree(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    expected, runs, size = coco_mask.encode(mask)["counts"], literal_runs(mask), mask.shape
    decoded = decode_runs(expected.decode())
    assert decoded is not None
    assert decoded.tolist() == runs
    assert encode({"size": list(size), "counts": runs}, size) == expected
    assert encode({"size": list(size), "counts": expected.decode()}, size) == expected
    assert area_of(expected, size) == mask.sum()


def test_garbage_is_refused_or_decodes_to_whole_masks() -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(2000):
        mask = random_mask(rng)
        counts = bytearray(coco_mask.encode(mask)["counts"])
        counts[rng.integers(len(counts))] = rng.integers(32, 127)
        text = counts[: rng.integers(1, len(counts) + 1)].decode()
        try:
            checked = encode({"size": list(mask.shape), "counts": text}, mask.shape)
        except ValueError:
            continue
        accepted += 1
        decoded = coco_mask.decode({"size": list(mask.shape), "counts": checked})
        runs = decode_runs(text)
        assert runs is not None
        assert decoded.sum() == runs[1::2].sum()
    assert 0 < accepted < 1000


@pytest.mark.parametrize("counts", ["", "é", "\ud800", "P" * 20, "o" * 400, "oooooooooooo0", " ", "p"])
def test_what_is_no_compressed_form(counts: str) -> None:
    assert decode_runs(counts) is None


@pytest.mark.parametrize("number", [1e300, 1e9, -1e9, float("nan"), float("inf"), 10**18, 10**40, 2**63])
@pytest.mark.filterwarnings("error")
def test_absurd_polygons_are_refused_without_a_warning(number: float) -> None:
    with pytest.raises(ValueError, match="a polygon"):
        encode([[0, 0, number, 0, number, number]], (20, 30))


def test_polygons_are_united() -> None:
    mask = coco_mask.decode({"size": [20, 30], "counts": encode([[0, 0, 10, 0, 10, 10, 0, 10]] * 2, (20, 30))})
    assert np.array_equal(mask[:10, :10], np.ones((10, 10)))
    assert mask.sum() == 100


@pytest.mark.parametrize("seed", range(20))
def test_polygons_are_rasterised_as_by_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(5, 80, 2))
    polygons = [rng.uniform(-20, 100, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(rng.integers(1, 4))]
    polygons = [np.clip(polygon, -min(height, width) / 2, 1.5 * max(height, width)).tolist() for polygon in polygons]
    expected = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    assert encode(polygons, (height, width)) == expected["counts"]


def test_whole_numbers_make_the_same_polygon() -> None:
    assert encode([[1, 1, 9, 1, 9, 9]], (12, 12)) == encode([[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], (12, 12))
