"""The two pyramids: sizes, counts of the paper's Table 6, guides, initialisation."""

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from models import ModelConfig
from models.components import UpsamplerConfig
from models.layers.fpn import FPN
from structures import DatasetInfo
from tests.models.rcnn.examples import build
from upsamplers import NAMES

WIDTHS = (8, 16, 24, 32)
COCO = DatasetInfo("instance", "coco", tuple(map(str, range(80))))

# Trainable parameters: of the whole models, and added by four upsamplers, all and conv weights only, with the figures
# that DySample's Table 6 prints (two of them are truncated there).
BASELINES = {
    ("faster_rcnn", "resnet50", "fpn_p6"): 46_836_640,
    ("faster_rcnn", "resnet101", "fpn_p6"): 65_828_768,
    ("faster_rcnn", "resnet50", "fpn"): 41_527_712,
    ("mask_rcnn", "resnet50", "fpn"): 44_170_992,
    ("mask_rcnn", "resnet101", "fpn"): 63_163_120,
    ("mask_rcnn", "resnet50", "fpn_p6"): 49_479_920,
    ("mask_rcnn", "resnet101", "fpn_p6"): 68_472_048,
}
FROZEN = 225_344
TABLE_6 = {
    "nearest": (0, 0, "0.0M"),
    "bilinear": (0, 0, "0.0M"),
    "deconv": (2_360_320, 2_359_296, "2.4M"),
    "pixelshuffle": (9_441_280, 9_437_184, "9.4M"),
    "carafe": (296_592, 295_936, "0.3M"),
    "indexnet": (8_400_896, 8_396_800, "8.4M"),
    "a2u": (43_160, 38_912, "38.9K"),
    "fade": (189_028, 188_672, "0.2M"),
    "sapa": (69_888, 65_536, "0.1M"),
    "dysample-s": (4_160, 4_096, "4.1K"),
    "dysample-s+": (8_256, 8_192, "8.2K"),
    "dysample": (32_896, 32_768, "32.8K"),
    "dysample+": (65_664, 65_536, "65.5K"),
}


def detector(name: str, backbone: str, neck: str, upsampler: str = "nearest") -> torch.nn.Module:
    config = {"name": name, "backbone": backbone, "neck": neck, "upsampler": upsampler}
    with torch.device("meta"):
        info = COCO if name == "mask_rcnn" else replace(COCO, task="detection")
        return TypeAdapter(ModelConfig).validate_python(config).build(info)


def trainable(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("which", BASELINES, ids="-".join)
def test_trainable_parameters_of_the_baselines(which):
    model = detector(*which)
    assert trainable(model) == BASELINES[which]
    assert sum(parameter.numel() for parameter in model.parameters()) == BASELINES[which] + FROZEN


@pytest.mark.parametrize("name", TABLE_6)
def test_increments_of_table_6(name):
    everything, weights, printed = TABLE_6[name]
    model = detector("faster_rcnn", "resnet50", "fpn_p6", name)
    assert trainable(model) == 46_836_640 + everything
    assert sum(upsampler.weight_count() for upsampler in model.neck.upsamplers) == weights
    assert f"{weights / (1e3 if printed.endswith('K') else 1e6):.1f}" == printed[:-1]


def neck(upsampler: str, top_down_p6: bool, init: str = "own") -> FPN:
    torch.manual_seed(0)
    return FPN(WIDTHS, 32, TypeAdapter(UpsamplerConfig).validate_python(upsampler), top_down_p6, init)


def features(side: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, width, side >> level, (side + 32) >> level) for level, width in enumerate(WIDTHS, 2)]


@pytest.mark.parametrize("top_down_p6", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_upsampler_fits_both_pyramids_at_sizes_that_are_not_twice_the_next(name, top_down_p6):
    levels = features(96)  # C5 is 3 x 4
    pyramid = neck(name, top_down_p6)(levels)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]


def test_p6_of_the_plain_pyramid_is_every_other_pixel_of_p5():
    pyramid = neck("nearest", top_down_p6=False)(features(128))
    assert torch.equal(pyramid[4], pyramid[3][:, :, ::2, ::2])


def test_top_down_sum_by_hand():
    module, levels = neck("nearest", top_down_p6=True), features(128)
    pyramid = module(levels)
    sums = [module.laterals[4](levels[3])]
    for index in (3, 2, 1, 0):
        doubled = sums[0].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        sums.insert(
            0, module.laterals[index](levels[index]) + doubled[:, :, : levels[index].shape[2], : levels[index].shape[3]]
        )
    for output, level, expected in zip(module.outputs, pyramid, sums, strict=True):
        torch.testing.assert_close(level, output(expected))


def test_guide_is_the_lateral_before_the_sum():
    module, levels, guides = neck("fade", top_down_p6=False), features(128), []
    for upsampler in module.upsamplers:
        upsampler.register_forward_pre_hook(lambda _, args, kwargs: guides.append(kwargs["guide"]), with_kwargs=True)
    module(levels)
    for guide, index in zip(guides, (2, 1, 0), strict=True):
        torch.testing.assert_close(guide, module.laterals[index](levels[index]))


def test_upsamplers_keep_their_own_start_unless_told_otherwise():
    own, xavier = neck("dysample+", True), neck("dysample+", True, "xavier")
    assert 0.0005 < own.upsamplers[0].offset.weight.std() < 0.002
    assert own.upsamplers[0].scope.weight.abs().max() == 0
    assert xavier.upsamplers[0].offset.weight.std() > 0.05
    assert xavier.upsamplers[0].scope.weight.abs().max() > 0


def test_images_are_padded_so_that_every_step_is_exactly_twofold():
    assert build("faster_rcnn").size_divisor == 64
    assert build("faster_rcnn", neck="fpn").size_divisor == 32
    assert build("mask_rcnn").size_divisor == 32
