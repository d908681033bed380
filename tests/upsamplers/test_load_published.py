"""Published checkpoints, in their current and older forms, load to the same result."""

import pytest
import torch
import torch.nn.functional as F

from upsamplers import NEWER_NAMES, build_upsampler, load_published


def weights(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]


def run(name, state_dict, channels=8, guide_channels=8):
    upsampler = build_upsampler(name, channels, guide_channels).eval()
    load_published(upsampler, state_dict)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, 4, 5, generator=generator)
    return upsampler(x, torch.randn(2, guide_channels, 8, 10, generator=generator)), x


def renamed(state_dict, *pairs):
    result = dict(state_dict)
    for old, new in pairs:
        result = {key.replace(old, new, 1) if key.startswith(old) else key: value for key, value in result.items()}
    return result


DYSAMPLE_SHAPES = {"offset.weight": (32, 8, 1, 1), "offset.bias": (32,), "scope.weight": (32, 8, 1, 1)}
DYSAMPLE = dict(zip(DYSAMPLE_SHAPES, weights(*DYSAMPLE_SHAPES.values()), strict=True))
FADE_SHAPES = {
    "compressor_en.weight": (64, 8, 1, 1),
    "compressor_en.bias": (64,),
    "compressor_de.weight": (64, 8, 1, 1),
    "content_encoder.weight": (25, 64, 3, 3),
    "content_encoder.bias": (25,),
}
FADE = dict(zip(FADE_SHAPES, weights(*FADE_SHAPES.values()), strict=True))
A2U_SHAPES = {
    **{f"bn{branch}.0.{part}": (8,) for branch in "uv" for part in ("weight", "bias")},
    "bconv_UP.1.weight": (36, 8, 1, 1),
    "bconv_UP.1.bias": (36,),
    **{f"bconv_{branch}.1.weight": (1, 8, 1, 1) for branch in "UV"},
    **{f"bconv_{branch}.1.bias": (1,) for branch in "UV"},
}
A2U = dict(zip(A2U_SHAPES, weights(*A2U_SHAPES.values()), strict=True))
SAPA_SHAPES = {
    **{f"norm_{role}.{part}": (8,) for role in "xy" for part in ("weight", "bias")},
    **{f"{role}.weight": (32, 8, 1, 1) for role in "qk"},
    **{f"{role}.bias": (32,) for role in "qk"},
}
SAPA = dict(zip(SAPA_SHAPES, weights(*SAPA_SHAPES.values()), strict=True))
GATE = dict(zip(("gate_generator.conv.weight", "gate_generator.conv.bias"), weights((1, 8, 1, 1), 1), strict=True))
CONV, CONV_BIAS = weights((32, 8, 3, 3), 32)
DECONV, DECONV_BIAS = weights((8, 8, 3, 3), 8)


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("dysample+", [DYSAMPLE, {**DYSAMPLE, "init_pos": torch.zeros(1, 32, 1, 1)}]),
        (
            "pixelshuffle",
            [
                {"0.weight": CONV, "0.bias": CONV_BIAS},
                {"upsample_conv.weight": CONV, "upsample_conv.bias": CONV_BIAS},
            ],
        ),
        ("deconv", [{"weight": DECONV, "bias": DECONV_BIAS}, {"deconv.weight": DECONV, "deconv.bias": DECONV_BIAS}]),
        (
            "fade",
            [
                {f"ker_generator.{key}": value for key, value in FADE.items()},
                FADE,
                renamed(
                    {f"kernel_generator.{key}": value for key, value in FADE.items()},
                    ("kernel_generator.compressor_en", "kernel_generator.conv1_en"),
                    ("kernel_generator.compressor_de", "kernel_generator.conv1_de"),
                    ("kernel_generator.content_encoder.weight", "kernel_generator.conv2_kernels"),
                    ("kernel_generator.content_encoder.bias", "kernel_generator.conv2_bias"),
                ),
            ],
        ),
        (
            "a2u",
            [
                A2U,
                {f"kernel_gen.{key}": value for key, value in A2U.items()},
                {**A2U, "bconv_DP.1.weight": torch.zeros(36, 8, 1, 1), "bconv_DP.1.bias": torch.zeros(36)},
            ],
        ),
        ("sapa", [SAPA, {key: value.flatten(1) if value.ndim == 4 else value for key, value in SAPA.items()}]),
    ],
)
def test_all_forms_give_one_result(name, forms):
    results = [run(name, form)[0] for form in forms]
    assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(results[0], run(name, build_upsampler(name, 8).state_dict())[0])


def convolution(name, out_channels, in_channels, side, bias=True):
    """The shapes of a convolution's weight and bias, by name."""
    shapes = {f"{name}.weight": (out_channels, in_channels, side, side)}
    return shapes | ({f"{name}.bias": (out_channels,)} if bias else {})


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def scores(name):
    return {
        f"{name}.weight": (128, 8, 3, 3),
        f"{name}.bias": (1, 128, 1, 1),
        **norm(f"{name}.norm", 32),
        **convolution(f"{name}.channel_compressor.1", 128, 32, 1),
        **norm(f"{name}.channel_compressor.3", 128),
        **convolution(f"{name}.channel_compressor.4", 9, 128, 1),
    }


# The names and shapes that the newer upsamplers' authors use, for 64 channels, and the buffers that are constant.
PUBLISHED = {
    "sapa-d": (
        convolution("q", 128, 64, 1) | convolution("k", 128, 64, 1) | convolution("offset", 4 * 9 * 2 * 4, 64, 1),
        {},
    ),
    "freqfusion": (
        convolution("hr_channel_compressor", 16, 64, 1)
        | convolution("lr_channel_compressor", 16, 64, 1)
        | convolution("content_encoder", 25, 16, 3)
        | convolution("content_encoder2", 9, 16, 3)
        | convolution("dysampler.offset", 32, 24, 3)
        | convolution("dysampler.direct_scale", 32, 24, 3)
        | convolution("dysampler.hr_offset", 8, 24, 3)
        | convolution("dysampler.hr_direct_scale", 8, 24, 3)
        | norm("dysampler.norm_hr", 16)
        | norm("dysampler.norm_lr", 16),
        {"hamming_lowpass": (1, 1, 5, 5), "hamming_highpass": (1, 1, 3, 3), "dysampler.init_pos": (1, 32, 1, 1)},
    ),
    "fade-lite": (
        convolution("gate_generator.conv", 1, 64, 1)
        | convolution("ker_generator.compressor_en", 25, 64, 1)
        | convolution("ker_generator.compressor_de", 25, 64, 1, bias=False)
        | convolution("ker_generator.content_encoder", 25, 1, 3),
        {},
    ),
    "lda_aqu": (
        norm("layer_norm.norm", 64)
        | convolution("proj_q", 16, 64, 1, bias=False)
        | convolution("proj_k", 16, 64, 1, bias=False)
        | convolution("conv_offset.0", 8, 1, 3, bias=False)
        | norm("conv_offset.1.norm", 8)
        | convolution("conv_offset.3", 18, 8, 3)
        | {"relative_position_bias_table": (1, 1, 1, 9, 16)},
        {},
    ),
    "resfu": (
        norm("norm_x", 64)
        | norm("norm_y", 64)
        | convolution("q", 32, 64, 1)
        | convolution("k", 32, 64, 1)
        | scores("semantic_scores")
        | scores("detail_scores"),
        {"GF.kernel": (32, 1, 1, 9)},
    ),
    "fam": (
        convolution("down_h", 32, 64, 1, bias=False)
        | convolution("down_l", 32, 64, 1, bias=False)
        | convolution("flow_make", 2, 64, 3, bias=False),
        {},
    ),
}


@pytest.mark.parametrize("name", NEWER_NAMES)
def test_newer_ones_load_by_their_official_names_without_their_constants(name):
    parameters, constants = PUBLISHED[name]
    learnt = dict(zip(parameters, weights(*parameters.values()), strict=True))
    upsampler = build_upsampler(name, 64)
    load_published(upsampler, learnt | {key: torch.ones(shape) for key, shape in constants.items()})
    loaded = list(upsampler.state_dict().values())
    assert sum(value.numel() for value in loaded) == sum(value.numel() for value in learnt.values())
    for value in learnt.values():  # each is somewhere, whatever its name
        assert any(value.numel() == own.numel() and torch.equal(value.flatten(), own.flatten()) for own in loaded)
    # Ours too are accepted.
    other = build_upsampler(name, 64)
    load_published(other, upsampler.state_dict())
    assert all(torch.equal(*pair) for pair in zip(loaded, other.state_dict().values(), strict=True))


@pytest.mark.parametrize("norm_name", ["norm_y", "norm_x"])
def test_norms_of_sapa_d_load(norm_name):
    parameters = PUBLISHED["sapa-d"][0] | norm("norm_y", 64) | norm("norm_x", 64)
    upsampler = build_upsampler({"name": "sapa-d", "norm": "group"}, 64)
    learnt = dict(zip(parameters, weights(*parameters.values()), strict=True))
    load_published(upsampler, learnt)
    assert torch.equal(upsampler.get_submodule(norm_name).weight, learnt[f"{norm_name}.weight"])


def test_pixelshuffle_and_deconv_compute_with_the_loaded_weights():
    output, x = run("pixelshuffle", {"0.weight": CONV, "0.bias": CONV_BIAS})
    torch.testing.assert_close(output, F.pixel_shuffle(F.conv2d(x, CONV, CONV_BIAS, padding=1), 2))
    output, x = run("deconv", {"weight": DECONV, "bias": DECONV_BIAS})
    torch.testing.assert_close(output, F.conv_transpose2d(x, DECONV, DECONV_BIAS, 2, 1, 1))


def test_gated_fade():
    fade = build_upsampler({"name": "fade", "gate": True}, 8)
    load_published(fade, {**{f"ker_generator.{key}": value for key, value in FADE.items()}, **GATE})
    assert torch.equal(fade.gate.weight, GATE["gate_generator.conv.weight"])


def test_indexnet_in_its_wrapper_without_batch_counter():
    source = build_upsampler("indexnet", 8)
    wrapped = {f"index_net.{key}": value for key, value in source.state_dict().items() if "num_batches" not in key}
    loaded = build_upsampler("indexnet", 8)
    load_published(loaded, wrapped)
    assert torch.equal(loaded.indexnet[0].weight, source.indexnet[0].weight)


@pytest.mark.parametrize("name", ["carafe", "dysample", "dysample-s+", "naive", "indexnet", "fade", "nearest"])
def test_our_own_state_dict_is_accepted(name):
    source, loaded = build_upsampler(name, 16), build_upsampler(name, 16)
    load_published(loaded, source.state_dict())
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in source.state_dict().items())


def test_scope_bias_is_added_and_zeroed_as_the_checkpoint_has_it():
    bias = weights(32, seed=5)[0]
    upsampler = build_upsampler("dysample+", 8)
    x = torch.randn(1, 8, 4, 5)
    load_published(upsampler, {**DYSAMPLE, "scope.bias": bias})
    assert torch.equal(dict(upsampler.named_parameters())["scope.bias"], bias)
    gate = torch.sigmoid(F.conv2d(x, DYSAMPLE["scope.weight"], bias))
    offset = 0.5 * gate * F.conv2d(x, DYSAMPLE["offset.weight"], DYSAMPLE["offset.bias"])
    moved = upsampler.sampling_points(x)[0, 1, 2 * 3 + 1, 2 * 2 + 0]  # group 1, pixel (3, 2), sub-pixel (1, 0)
    expected = torch.stack([2.25 + offset[0, 6, 3, 2], 3.75 + offset[0, 22, 3, 2]])
    torch.testing.assert_close(moved, expected)
    load_published(upsampler, {**DYSAMPLE, "scope.bias": bias})
    load_published(upsampler, DYSAMPLE)
    assert not upsampler.state_dict()["scope.bias"].any()
    fresh = build_upsampler("dysample+", 8)
    load_published(fresh, DYSAMPLE)
    assert "scope.bias" not in fresh.state_dict()
    torch.testing.assert_close(upsampler(x), fresh(x))


def test_scope_bias_is_an_option():
    upsampler = build_upsampler({"name": "dysample+", "scope_bias": True}, 8)
    assert not upsampler.state_dict()["scope.bias"].any()
    bias = weights(32, seed=5)[0]
    load_published(upsampler, {**DYSAMPLE, "scope.bias": bias})
    assert torch.equal(upsampler.state_dict()["scope.bias"], bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset.weight": torch.zeros(16, 8, 1, 1)}, r"offset.weight is \[16, 8, 1, 1\], not \[32, 8, 1, 1\]"),
        ({"offset.bias": None}, "missing: offset.bias"),
        ({"extra": torch.zeros(1)}, "unexpected: extra"),
        ({"scope.bias": torch.zeros(3)}, r"scope.bias is \[3\], not \[32\]"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change, message):
    upsampler = build_upsampler("dysample+", 8)
    before = {key: value.clone() for key, value in upsampler.state_dict().items()}
    state_dict = {key: value for key, value in {**DYSAMPLE, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_published(upsampler, state_dict)
    after = upsampler.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_dynamic_scope_into_a_static_module_is_refused():
    with pytest.raises(ValueError, match=r"unexpected: scope.weight"):
        load_published(build_upsampler("dysample", 8), DYSAMPLE)


def test_weights_given_twice_are_refused():
    with pytest.raises(ValueError, match="twice"):
        load_published(build_upsampler("fade", 8), {**FADE, "conv1_de.weight": FADE["compressor_de.weight"]})
