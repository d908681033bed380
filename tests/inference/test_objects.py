"""Boxes and masks from windows and views."""

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from torchvision.ops import batched_nms

from inference import InferenceConfig, build_inference
from inference.merging import MergeConfig, merge, overlaps
from inference.objects import placed
from structures import DatasetInfo, Instances
from tests.inference.made import PLAIN, Finder, batch_of, noise

INFO = DatasetInfo("instance", "made", ("a",))
SAHI = {"rule": "greedy", "measure": "ios", "threshold": 0.5}


def decoded(rle: bytes, size: tuple[int, int]) -> np.ndarray:
    return mask_utils.decode({"size": list(size), "counts": rle})


def objects_in(image, size=None, merge=SAHI, **settings):
    config = InferenceConfig.model_validate({"merge": merge, **settings})
    return build_inference(config, Finder(), (PLAIN,), INFO).predict(batch_of(image, size))[0].instances


def scene() -> torch.Tensor:
    """Three objects on 100 x 140 pixels, the largest 24 pixels wide."""
    image = torch.zeros(3, 100, 140, dtype=torch.uint8)
    for value, (top, left, height, width) in enumerate([(10, 20, 20, 24), (44, 60, 12, 16), (80, 118, 20, 22)], 1):
        image[0, top : top + height, left : left + width] = value
    return image


@pytest.mark.parametrize("rule", ["nms", "greedy"])
@pytest.mark.parametrize("flip", [False, True])
def test_objects_smaller_than_the_overlap_are_found_as_in_the_whole_image(rule, flip):
    image = scene()
    whole = objects_in(image)
    found = objects_in(image, windows={"size": (64, 64), "overlap": 0.4}, flip=flip, merge={**SAHI, "rule": rule})
    assert torch.equal(found.boxes, whole.boxes)
    assert torch.equal(found.scores, whole.scores)
    assert found.rles == whole.rles


def test_an_object_larger_than_a_window_grows_together_by_the_greedy_rule():
    image = torch.zeros(3, 40, 100, dtype=torch.uint8)
    image[0, 10:30, 5:75] = 7
    settings = {"size": (40, 48), "overlap": 0.6}
    found = objects_in(image, windows=settings)
    assert found.boxes.tolist() == [[5, 10, 75, 30]]
    assert np.array_equal(decoded(found.rles[0], (40, 100)), (image[0] == 7).numpy())
    assert len(objects_in(image, windows=settings, merge={**SAHI, "rule": "nms"}).boxes) < 4


def test_windows_of_a_resized_image_are_placed_in_the_original_one():
    image = scene()
    found = objects_in(image, (200, 420), windows={"size": (64, 64), "overlap": 0.4})
    torch.testing.assert_close(found.boxes, objects_in(image).boxes * torch.tensor([3.0, 2.0, 3.0, 2.0]))
    assert found.rles == objects_in(image, (200, 420)).rles


def test_an_image_without_objects_has_none():
    found = objects_in(torch.zeros(3, 80, 80, dtype=torch.uint8), windows={"size": (64, 64)}, scales=(1, 2))
    assert found.boxes.shape == (0, 4)
    assert found.rles == []


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("corner", [(0, 0), (5, 7), (20, 0), (10, 10)])
def test_a_mask_is_placed_without_its_bitmap(mirrored, corner):
    whole = (30, 41)
    for mask in (noise(10, 12)[0] > 128, torch.ones(10, 12, dtype=torch.bool), torch.zeros(10, 12, dtype=torch.bool)):
        mask = mask.numpy().astype(np.uint8)
        rle = mask_utils.encode(np.asfortranarray(mask))["counts"]
        expected = np.zeros(whole, np.uint8)
        place = slice(corner[0], corner[0] + 10), slice(corner[1], corner[1] + 12)
        expected[place] = mask[:, ::-1] if mirrored else mask
        found = placed(rle, (10, 12), mirrored, corner, whole)
        assert found == mask_utils.encode(np.asfortranarray(expected))["counts"]


def test_a_window_as_high_as_the_image_gives_runs_across_columns():
    mask = np.ones((6, 4), np.uint8, order="F")
    whole = np.zeros((6, 9), np.uint8, order="F")
    whole[:, 3:7] = 1
    rle = mask_utils.encode(mask)["counts"]
    assert placed(rle, (6, 4), False, (0, 3), (6, 9)) == mask_utils.encode(whole)["counts"]


def boxes(count: int) -> Instances:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 60
    sides = torch.rand(count, 2, generator=generator) * 30 + 1
    labels = torch.randint(3, (count,), generator=generator)
    return Instances(
        torch.cat([corners, corners + sides], dim=1), labels, scores=torch.rand(count, generator=generator)
    )


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nms_is_that_of_torchvision(class_agnostic):
    found = boxes(200)
    groups = torch.zeros_like(found.labels) if class_agnostic else found.labels
    kept = batched_nms(found.boxes, found.scores, groups, 0.3)
    merged = merge(found, MergeConfig(threshold=0.3, class_agnostic=class_agnostic), (100, 100))
    assert torch.equal(merged.boxes, found.boxes[kept])
    assert torch.equal(merged.labels, found.labels[kept])
    assert torch.equal(merged.scores, found.scores[kept])


def test_a_part_matches_its_whole_by_ios_alone():
    whole, part = torch.tensor([0.0, 0, 10, 10]), torch.tensor([[0.0, 0, 5, 4]])
    assert overlaps(whole, part, "ios").tolist() == [1]
    assert overlaps(whole, part, "iou").tolist() == pytest.approx([0.2])
    assert overlaps(whole, torch.tensor([[3.0, 3, 3, 3]]), "ios").tolist() == [0]


def test_greedy_merging_encloses_the_boxes_and_keeps_the_best_score():
    corners = torch.tensor([[0.0, 0, 10, 10], [6, 0, 14, 10], [30, 30, 40, 40]])
    found = Instances(corners, torch.tensor([1, 1, 1]), scores=torch.tensor([0.5, 0.9, 0.7]))
    merged = merge(found, MergeConfig(rule="greedy", measure="ios", threshold=0.5), (50, 50))
    assert merged.boxes.tolist() == [[0, 0, 14, 10], [30, 30, 40, 40]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])
