"""Parameters and multiply-accumulates against the tables of the DySample paper, and those of newer upsamplers."""

import re
from pathlib import Path

import pytest

from upsamplers import NAMES, build_upsampler

PAGE = Path(__file__).parents[2] / "docs/upsamplers.md"

FPN = [(256, 256)]
DEPTHFORMER = [(768, 384), (384, 192), (192, 96), (96, 64)]
PER_STAGE = {  # one 256-channel stage: all, weights; then all of each DepthFormer stage
    "deconv": (590_080, 589_824, 5_309_184, 1_327_488, 331_968, 83_040),
    "pixelshuffle": (2_360_320, 2_359_296, 21_236_736, 5_309_952, 1_327_872, 332_160),
    "carafe": (74_148, 73_984, 106_916, 82_340, 70_052, 63_908),
    "indexnet": (2_100_224, 2_099_200, 4_723_200, 1_181_952, 296_064, 131_840),
    "a2u": (10_790, 9_728, 16_166, 8_102, 4_070, 2_726),
    "fade": (47_257, 47_168, 88_217, 51_353, 32_921, 24_729),
    "sapa": (17_472, 16_384, 39_232, 19_648, 9_856, 5_504),
    "dysample-s": (1_040, 1_024, 3_088, 1_552, 784, 400),
    "dysample-s+": (2_064, 2_048, 6_160, 3_088, 1_552, 784),
    "dysample": (8_224, 8_192, 24_608, 12_320, 6_176, 3_104),
    "dysample+": (16_416, 16_384, 49_184, 24_608, 12_320, 6_176),
    "naive": (2_056, 2_048, 6_152, 3_080, 1_544, 776),
    "nearest": (0,) * 6,
    "bilinear": (0,) * 6,
    "sapa-d": (139_808, 139_264, 369_184, 184_864, 92_704, 48_672),
    "freqfusion": (104_690, 104_192, 320_370, 121_650, 53_394, 29_714),
    "fade-lite": (13_332, 13_281, 29_844, 15_060, 7_668, 4_372),
    "lda_aqu": (39_410, 38_240, 314_802, 83_682, 23_418, 7_110),
    "resfu": (47_570, 45_312, 69_330, 49_746, 39_954, 35_602),
    "fam": (70_144, 70_144, 456_192, 117_504, 31_104, 9_408),
}
TOTALS = {  # all and weights: six 256-channel stages (Table 4), four (6), three (8), DepthFormer's (9)
    "deconv": (3_540_480, 3_538_944, 2_360_320, 2_359_296, 1_770_240, 1_769_472, 7_051_680, 7_050_240),
    "pixelshuffle": (
        *(14_161_920, 14_155_776, 9_441_280, 9_437_184),
        *(7_080_960, 7_077_888, 28_206_720, 28_200_960),
    ),
    "carafe": (444_888, 443_904, 296_592, 295_936, 222_444, 221_952, 323_216, 322_560),
    "indexnet": (12_601_344, 12_595_200, 8_400_896, 8_396_800, 6_300_672, 6_297_600, 6_333_056, 6_330_112),
    "a2u": (64_740, 58_368, 43_160, 38_912, 32_370, 29_184, 31_064, 27_968),
    "fade": (283_542, 283_008, 189_028, 188_672, 141_771, 141_504, 197_220, 196_864),
    "sapa": (104_832, 98_304, 69_888, 65_536, 52_416, 49_152, 74_240, 69_632),
    "dysample-s": (6_240, 6_144, 4_160, 4_096, 3_120, 3_072, 5_824, 5_760),
    "dysample-s+": (12_384, 12_288, 8_256, 8_192, 6_192, 6_144, 11_584, 11_520),
    "dysample": (49_344, 49_152, 32_896, 32_768, 24_672, 24_576, 46_208, 46_080),
    "dysample+": (98_496, 98_304, 65_664, 65_536, 49_248, 49_152, 92_288, 92_160),
}
MACS = {  # per low-resolution pixel of a 256-channel stage; G in Table 4, None where ours differs from it
    "nearest": (0, 0.0),
    "bilinear": (0, 0.0),
    "deconv": (2_359_296, 34.4),
    "pixelshuffle": (2_359_296, 34.4),
    "carafe": (99_584, 1.5),
    "indexnet": (2_100_224, None),  # 30.647 G, printed as 30.7
    "a2u": (27_940, 0.4),
    "fade": (179_520, None),  # 2.62 G; the 2.7 of the table is that of the gated operator
    "sapa": (69_760, 1.0),
    "dysample-s": (4_096 + 11_264, 0.2),
    "dysample-s+": (8_192 + 11_264, 0.3),
    "dysample": (8_192 + 11_264, 0.3),
    "dysample+": (16_384 + 11_264, 0.4),
    # Not in Table 4. With 8 operations per value that SAPA-D reads, instead of 11, it takes its paper's 5.3 G.
    "sapa-d": (251_392 + 11 * 4 * 9 * (128 + 256), 5.9),
    "freqfusion": (317_448, 4.6),
    "fade-lite": (61_029, 0.9),
    "lda_aqu": (88_064 + 126_720, 3.1),
    "resfu": (175_232, 2.6),
    "fam": (193_536, 2.8),
}


def parameters(upsampler):
    return sum(parameter.numel() for parameter in upsampler.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", PER_STAGE)
def test_parameters_of_a_stage(name):
    upsampler = build_upsampler(name, 256)
    stages = [parameters(build_upsampler(name, *channels)) for channels in DEPTHFORMER]
    assert (parameters(upsampler), upsampler.weight_count(), *stages) == PER_STAGE[name]


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_of_a_model(name):
    counts = []
    for stages in (FPN * 6, FPN * 4, FPN * 3, DEPTHFORMER):
        upsamplers = [build_upsampler(name, *channels) for channels in stages]
        counts += [sum(map(parameters, upsamplers)), sum(upsampler.weight_count() for upsampler in upsamplers)]
    assert tuple(counts) == TOTALS[name]


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"name": "dysample"}, {2: 8_192, 3: 18_432, 4: 32_768}),
        ({"name": "dysample-s"}, {2: 1_024, 4: 256}),
        ({"name": "indexnet", "network": "m2o"}, {2: 1_048_576}),
    ],
)
def test_weights_at_other_scales_and_of_other_networks(options, weights):
    assert {scale: build_upsampler(options, 256, scale=scale).weight_count() for scale in weights} == weights


def test_carafe_parameters_at_other_scales():
    assert [parameters(build_upsampler("carafe", 256, scale=s)) for s in (2, 3, 4)] == [74_148, 146_273, 247_248]


@pytest.mark.parametrize("name", MACS)
def test_macs_of_table_4(name):
    per_pixel, published = MACS[name]
    upsampler = build_upsampler(name, 256)
    assert upsampler.macs(1, 1) == per_pixel
    total = sum(upsampler.macs(side, side) for side in (16, 32, 64, 32, 64, 64))  # 512 x 512, the six SegFormer stages
    assert total == per_pixel * 14_592
    if published is not None:
        assert round(total / 1e9, 1) == published


@pytest.mark.parametrize(
    ("options", "all_parameters", "weights", "macs"),
    [
        ({"name": "freqfusion", "resample_norm": False}, 104_434, 104_192, 317_448),
        ({"name": "freqfusion", "resample": False}, 52_514, 52_352, 220_360),
        ({"name": "freqfusion", "high_pass": False}, 104_690, 104_192, 317_448 - 4 * 9 * (25 + 256)),
        ({"name": "fam", "gated": True}, 77_056, 77_056, 193_536 + 4 * (256 * 18 + 256 * 9 + 256 * 13)),
        ({"name": "sapa-d", "norm": "group"}, 139_808 + 4 * 256, 139_264, 403_456),
    ],
)
def test_counts_of_other_options(options, all_parameters, weights, macs):
    upsampler = build_upsampler(options, 256)
    assert (parameters(upsampler), upsampler.weight_count(), upsampler.macs(1, 1)) == (all_parameters, weights, macs)


def test_resfu_has_the_same_parameters_at_every_scale():
    assert {parameters(build_upsampler("resfu", 256, scale=scale)) for scale in (2, 4, 8)} == {47_570}


def test_macs_of_gated_fade_and_many_to_one_indexnet():
    assert build_upsampler({"name": "fade", "gate": True}, 256).macs(1, 1) == 181_824
    m2o = build_upsampler({"name": "indexnet", "network": "m2o"}, 256)
    assert round(m2o.macs(1, 14_592) / 1e9, 1) == 15.3


def test_the_page_has_a_row_for_every_upsampler_with_its_costs():
    rows = re.findall(r"^\| `(\S+)` \|.*\| (yes)? ?\| ([\d,]+) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    upsamplers = {name: build_upsampler(name, 256) for name in NAMES}
    expected = [
        (name, "yes" if upsampler.uses_guide else "", f"{upsampler.weight_count():,}", f"{upsampler.macs(1, 1):,}")
        for name, upsampler in upsamplers.items()
    ]
    assert rows == expected
