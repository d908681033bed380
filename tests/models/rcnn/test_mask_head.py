"""Masks laid into images, against a plain loop and by hand; and what the mask head learns from."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from models.rcnn.box_head import SampledBoxes
from models.rcnn.mask_head import SIDE, _crop_masks, encode_masks
from structures import Instances, Target


def decoded(rles: list[bytes], size: tuple[int, int]) -> np.ndarray:
    return np.stack([coco_mask.decode({"size": list(size), "counts": rle}) for rle in rles])


def slow_paste(mask: np.ndarray, box: list[float], size: tuple[int, int]) -> np.ndarray:
    """Bilinear in the 28 x 28 mask, 0 outside, at every pixel's centre."""
    padded = np.pad(mask.astype(np.float64), 1)
    result = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * SIDE - 0.5 + 1
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * SIDE - 0.5 + 1
            if not (0 <= y <= SIDE + 1 and 0 <= x <= SIDE + 1):
                continue
            top, left = min(int(y), SIDE), min(int(x), SIDE)
            v, u = y - top, x - left
            corner = padded[top : top + 2, left : left + 2]
            result[row, column] = (np.outer([1 - v, v], [1 - u, u]) * corner).sum() >= 0.5
    return result


@pytest.mark.parametrize(
    "box",
    [[3.2, 4.7, 31.9, 22.1], [0, 0, 40, 30], [0.3, 0.1, 2.2, 29.9], [10.5, 10.5, 11.4, 11.4], [38.2, 27.5, 40, 30]],
)
def test_masks_are_those_of_a_plain_loop(box):
    torch.manual_seed(0)
    mask = torch.rand(SIDE, SIDE)
    (found,) = decoded(encode_masks(mask[None], torch.tensor([box]), (30, 40)), (30, 40))
    differing = (found.astype(bool) != slow_paste(mask.numpy(), box, (30, 40))).sum()
    assert differing == 0


def test_a_certain_mask_fills_the_pixels_whose_centres_lie_in_its_box():
    boxes = torch.tensor([[2.0, 3.0, 12.0, 8.0], [5.0, 5.0, 5.0, 5.0]])
    full, empty = decoded(encode_masks(torch.ones(2, SIDE, SIDE), boxes, (10, 20)), (10, 20))
    assert full.sum() == 50
    assert full[3:8, 2:12].all()
    assert empty.sum() == 0


def test_one_mask_leaves_no_trace_in_the_next():
    boxes = torch.tensor([[0.0, 0, 20, 10], [4, 4, 6, 6]])
    _, second = decoded(encode_masks(torch.ones(2, SIDE, SIDE), boxes, (10, 20)), (10, 20))
    assert second.sum() == 4


def test_targets_are_cut_out_of_the_object_that_the_box_belongs_to():
    masks = torch.zeros(2, 56, 56, dtype=torch.bool)
    masks[1, :28, 14:42] = True
    target = Target(
        "a", (56, 56), instances=Instances(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), masks=masks)
    )
    boxes = torch.tensor([[0.0, 0, 56, 56], [14, 0, 42, 28], [14, 0, 42, 28]])
    cut = _crop_masks(boxes, SampledBoxes(boxes, torch.zeros(3, dtype=torch.long), torch.tensor([1, 1, 0])), target)
    assert cut[0].sum() == 14 * 14
    assert cut[0, :14, 7:21].all()
    assert cut[1].all()
    assert cut[2].sum() == 0
    assert set(cut.unique().tolist()) <= {0.0, 1.0}
