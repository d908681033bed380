"""The simple feature pyramid with every upsampler."""

import pytest
import torch

from models.layers.simple_pyramid import SimplePyramid, shrink
from upsamplers import CONFIGS as RECORDS
from upsamplers import NAMES, BilinearConfig, build_upsampler, expand_name


def record(name: str):
    options = expand_name(name)
    kind = next(each for each in RECORDS if each.__dataclass_fields__["name"].default == options["name"])
    return kind(**options)


@pytest.mark.parametrize("upsampler", NAMES)
def test_four_levels_with_every_upsampler_learn(upsampler):
    pyramid = SimplePyramid(32, 16, 8, record(upsampler), image_channels=3)
    levels = pyramid(torch.randn(2, 32, 4, 6), torch.randn(2, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 64 // each, 96 // each) for each in (4, 8, 16, 32)]
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    assert [name for name, parameter in pyramid.named_parameters() if parameter.grad is None] == []


def test_it_has_three_upsamplers_as_vitdet_has_transposed_convolutions():
    kind = type(build_upsampler("deconv", 4))
    pyramid = SimplePyramid(32, 16, 8, record("deconv"), image_channels=3)
    assert [module.channels for module in pyramid.modules() if isinstance(module, kind)] == [16, 8, 16]


@pytest.mark.parametrize(("stride", "size"), [(8, (8, 12)), (32, (2, 3))])
def test_maps_of_other_strides_give_the_same_levels(stride, size):
    pyramid = SimplePyramid(32, stride, 8, BilinearConfig(), image_channels=3)
    levels = pyramid(torch.randn(1, 32, *size), torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape[2:]) for level in levels] == [(64 // each, 96 // each) for each in (4, 8, 16, 32)]


def test_images_shrink_to_means():
    images = torch.arange(12.0).view(1, 1, 3, 4)
    torch.testing.assert_close(shrink(images, 2), torch.tensor([[[[2.5, 4.5], [8.5, 10.5]]]]))
    assert shrink(images, 1) is images
