"""RoIAlign on the CPU equals torchvision's operator."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from models.rcnn import boxes as ours
from models.rcnn.box_head import STRIDES, RegionConfig, pool_regions
from models.rcnn.boxes import roi_align_levels

HEIGHT, WIDTH = 96, 160


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 5, HEIGHT // stride, WIDTH // stride, generator=generator) for stride in STRIDES]
    return [level.requires_grad_() for level in levels]


# Inside the image, over its borders, beside it, long and thin, tiny, empty, the whole image.
BOXES = torch.tensor(
    [
        [10.0, 12, 50, 61],
        [-30, -20, 25, 40],
        [150, 80, 200, 130],
        [170, 10, 260, 60],
        [0, 40, 160, 43],
        [70.2, 33.3, 70.9, 33.9],
        [60, 30, 60, 30],
        [0, 0, 160, 96],
    ]
)
IMAGES = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])


def literal(pyramid: list[Tensor], levels: Tensor, size: int, sampling: int, aligned: bool) -> Tensor:
    rois = torch.cat([IMAGES[:, None].float(), BOXES], dim=1)
    pooled = [
        roi_align(pyramid[level], roi[None], size, 1 / STRIDES[level], sampling, aligned)
        for level, roi in zip(levels.tolist(), rois, strict=True)
    ]
    return torch.cat(pooled)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7])
def test_values_and_gradients_are_those_of_torchvision(size, sampling, aligned):
    for levels in (torch.arange(len(BOXES)) % 4, torch.zeros(len(BOXES), dtype=torch.int64)):
        found, expected = [], []
        for results, form in ((found, roi_align_levels), (expected, None)):
            pyramid = maps()
            if form:
                pooled = form(pyramid, BOXES, IMAGES, levels, size, STRIDES, sampling, aligned)
            else:
                pooled = literal(pyramid, levels, size, sampling, aligned)
            (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum().backward()
            grads = [torch.zeros_like(level) if level.grad is None else level.grad for level in pyramid]
            results += [pooled.detach(), *grads]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_memory_formats_and_types_of_the_maps_do_not_matter():
    levels = torch.arange(len(BOXES)) % 4
    where = (BOXES, IMAGES, levels, 7, STRIDES, 2, True)
    pooled = roi_align_levels(maps(), *where)
    other = roi_align_levels([level.contiguous(memory_format=torch.channels_last) for level in maps()], *where)
    assert torch.equal(pooled, other)
    half = roi_align_levels([level.bfloat16() for level in maps()], *where)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), pooled, rtol=0.02, atol=0.03)


def test_boxes_that_are_not_finite_read_nothing():
    boxes = torch.full((2, 4), torch.nan)
    boxes[1] = torch.tensor([-torch.inf, 0, torch.inf, 4])
    pooled = roi_align_levels(maps(), boxes, *torch.zeros(2, 2, dtype=torch.int64), 7, STRIDES, 2, True)
    assert torch.equal(pooled, torch.zeros_like(pooled))


def test_without_boxes_nothing_is_pooled_and_gradients_are_zero():
    pyramid = maps()
    pooled = pool_regions(pyramid, [torch.zeros(0, 4)] * 2, 7, RegionConfig())
    assert pooled.shape == (0, 5, 7, 7)
    pooled.sum().backward()
    assert all(torch.equal(level.grad, torch.zeros_like(level)) for level in pyramid)


def test_regions_too_large_for_this_form_are_left_to_torchvision(monkeypatch):
    boxes = [BOXES[:4], BOXES[4:]]
    pooled = pool_regions(maps(), boxes, 7, RegionConfig())
    monkeypatch.setattr(ours, "MOST_CELLS", 100)
    assert roi_align_levels(maps(), BOXES, IMAGES, IMAGES, 7, STRIDES, 0, True) is None
    torch.testing.assert_close(pool_regions(maps(), boxes, 7, RegionConfig()), pooled, rtol=1e-4, atol=1e-5)
