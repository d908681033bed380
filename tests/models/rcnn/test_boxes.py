"""Anchors and deltas by hand and against torchvision."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from models.rcnn.boxes import AnchorConfig, anchors_of_level, covered_share, decode, encode

CPU = torch.device("cpu")


def random_boxes(count: int) -> torch.Tensor:
    low = torch.rand(count, 2) * 100
    return torch.cat([low, low + 1 + torch.rand(count, 2) * 60], dim=1)


def test_anchors_are_centred_on_cell_corners_by_row_column_and_ratio():
    anchors = anchors_of_level(AnchorConfig(), (2, 3), 16, CPU).view(2, 3, 3, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    torch.testing.assert_close(centres[1, 2], torch.tensor([[32.0, 16.0]] * 3))
    width, height = (anchors[..., 2:] - anchors[..., :2])[0, 0].unbind(dim=1)
    assert (width * height).tolist() == pytest.approx([128.0**2] * 3)
    assert (height / width).tolist() == pytest.approx([0.5, 1, 2])


def test_rounded_anchors_are_those_of_torchvision():
    base = anchors_of_level(AnchorConfig(rounded=True), (1, 1), 4, CPU)
    assert base.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


def test_deltas_are_those_of_torchvision():
    torch.manual_seed(0)
    boxes, targets = random_boxes(50), random_boxes(50)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    stds = (0.1, 0.1, 0.2, 0.2)
    deltas = encode(boxes, targets, stds)
    torch.testing.assert_close(deltas, coder.encode_single(targets, boxes), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode(boxes, deltas, stds, (1000, 1000)), targets, rtol=1e-4, atol=1e-3)


def test_boxes_grow_and_shrink_by_62_5_at_most_and_end_at_the_image():
    box = torch.tensor([[100.0, 100.0, 116.0, 116.0]])
    deltas = torch.tensor([[0.0, 0.0, 9.0, -9.0]])
    x1, y1, x2, y2 = decode(box, deltas, (1, 1, 1, 1), (4000, 4000))[0].tolist()
    assert (x1, x2) == (0, pytest.approx(108 + 500, rel=1e-5))
    assert y2 - y1 == pytest.approx(16 / 62.5, rel=1e-3)
    assert decode(box, deltas, (1, 1, 1, 1), (110, 120))[0, 2:].tolist() == [120, pytest.approx(108.128, rel=1e-4)]


def test_covered_share_counts_the_best_single_region():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
    regions = torch.tensor([[0.0, 0, 5, 10], [5, 0, 8, 10]])
    assert covered_share(boxes, regions).tolist() == [0.5, 0, 0]


def test_equal_boxes_have_zero_deltas():
    boxes = random_boxes(5)
    assert encode(boxes, boxes, (1, 1, 1, 1)).abs().max() == 0
    assert math.isfinite(encode(boxes, boxes + 5, (1, 1, 1, 1)).sum())
