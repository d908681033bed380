"""CARAFE, FADE, FADE-Lite, SAPA-B, IndexNet and A2U from their formulas, written out the long way round.

The references upsample and unfold instead of using the sub-pixel layout, and loop over samples.
"""

import pytest
import torch
import torch.nn.functional as F

from tests.upsamplers.literal import assert_agrees, conv, lively, nearest, window_sum
from upsamplers import build_upsampler
from upsamplers.base import _warn_once


def reassembly(x, kernels, K, scale=2):
    """x [B, C, H, W], kernels [B, K², sH, sW] of one group."""
    B, C, H, W = x.shape
    windows = F.unfold(x, K, padding=K // 2).reshape(B, C * K**2, H, W)
    windows = F.interpolate(windows, scale_factor=scale).reshape(B, C, K**2, scale * H, scale * W)
    return (windows * kernels.unsqueeze(1)).sum(2)


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


@pytest.fixture
def x():
    return torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def guide():
    return torch.randn(2, 8, 10, 14, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scale", [2, 3])
def test_carafe(x, groups, scale):
    carafe = randomised(build_upsampler({"name": "carafe", "groups": groups, "kernel": 3}, 6, scale=scale))
    logits = F.pixel_shuffle(carafe.content_encoder(carafe.channel_compressor(x)), scale)
    parts = [
        reassembly(part, torch.softmax(logit, dim=1), 3, scale)
        for part, logit in zip(x.chunk(groups, 1), logits.chunk(groups, 1), strict=True)
    ]
    torch.testing.assert_close(carafe(x), torch.cat(parts, dim=1))


def test_fresh_carafe_is_nearly_a_box_filter(x):
    carafe = build_upsampler("carafe", 6)
    box = reassembly(x, torch.full((2, 25, 10, 14), 1 / 25), 5)
    assert (carafe(x) - box).norm() < 0.03 * box.norm()


@pytest.mark.parametrize("scale", [2, 3])
def test_fade_adds_its_encoder_bias_twice(x, scale):
    fade = randomised(build_upsampler("fade", 6, 8, scale))
    guide = torch.randn(2, 8, 5 * scale, 7 * scale)
    weight, bias = fade.content_encoder.weight, fade.content_encoder.bias
    fine = F.conv2d(fade.compressor_en(guide), weight, padding=1)
    coarse = F.interpolate(F.conv2d(fade.compressor_de(x), weight, padding=1), scale_factor=scale)
    logits = fine + coarse + 2 * bias.reshape(1, -1, 1, 1)
    expected = reassembly(x, torch.softmax(logits, dim=1), 5, scale)
    torch.testing.assert_close(fade(x, guide), expected, rtol=1e-4, atol=1e-5)


def test_gated_fade_mixes_guide_and_result(x):
    guide = torch.randn(2, 6, 10, 14)
    gated = randomised(build_upsampler({"name": "fade", "gate": True}, 6))
    plain = build_upsampler("fade", 6)
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if not key.startswith("gate")})
    gate = F.interpolate(torch.sigmoid(gated.gate(x)), scale_factor=2)
    torch.testing.assert_close(gated(x, guide), gate * guide + (1 - gate) * plain(x, guide))


def test_gate_needs_equal_channels():
    with pytest.raises(ValueError, match="8 and 6 channels"):
        build_upsampler({"name": "fade", "gate": True}, 6, 8)


def fade_lite(module, x, y, s):
    K, encoder = module.kernel, module.content_encoder
    fine = conv(encoder, conv(module.compressor_en, y))
    coarse = conv(encoder, conv(module.compressor_de, x))
    logits = fine + nearest(coarse, s)  # with the encoder's bias twice
    gate = nearest(1 / (1 + torch.exp(-conv(module.gate, x))), s)
    output = window_sum(x, logits.exp() / logits.exp().sum(0), s)
    assert logits.shape[0] == K * K
    # Where channels differ the guide cannot be blended, and its part is left out.
    return gate * y + (1 - gate) * output if y.shape[0] == x.shape[0] else (1 - gate) * output


@pytest.mark.parametrize("guide_channels", [6, 5])
@pytest.mark.parametrize(("scale", "kernel"), [(2, 5), (3, 3), (4, 3)])
def test_fade_lite(scale, kernel, guide_channels):
    assert_agrees(lively({"name": "fade-lite", "kernel": kernel}, 6, guide_channels, scale), fade_lite, (3, 4))


def test_fade_lite_has_no_embedding():
    with pytest.raises(ValueError, match="embedding is an option of FADE without lite"):
        build_upsampler({"name": "fade-lite", "embedding": 32}, 6)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("scale", [2, 3])
def test_sapa_scores_keys_outside_the_map_zero(x, norm, scale):
    sapa = randomised(build_upsampler({"name": "sapa", "norm": norm}, 6, 8, scale))
    guide = torch.randn(2, 8, 5 * scale, 7 * scale)

    def normalised(features, module):
        if norm == "group":  # 32 groups fall to one group for every channel here
            mean, var = features.mean((2, 3), keepdim=True), features.var((2, 3), keepdim=True, correction=0)
        else:
            mean, var = features.mean(1, keepdim=True), features.var(1, keepdim=True, correction=0)
        affine = module.weight.reshape(1, -1, 1, 1), module.bias.reshape(1, -1, 1, 1)
        return (features - mean) / torch.sqrt(var + 1e-5) * affine[0] + affine[1]

    query = sapa.q(normalised(guide, sapa.norm_y))
    key = F.unfold(sapa.k(normalised(x, sapa.norm_x)), 5, padding=2).reshape(2, 32 * 25, 5, 7)
    key = F.interpolate(key, scale_factor=scale).reshape(2, 32, 25, 5 * scale, 7 * scale)
    kernels = torch.softmax((query.unsqueeze(2) * key).sum(1), dim=1)
    torch.testing.assert_close(sapa(x, guide), reassembly(x, kernels, 5, scale), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("double_sigmoid", [False, True])
def test_indexnet(x, guide, double_sigmoid):
    indexnet = randomised(build_upsampler({"name": "indexnet", "double_sigmoid": double_sigmoid}, 6, 8)).eval()
    strided, norm, _, pointwise = indexnet.indexnet
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    y = F.conv2d(guide, strided.weight, stride=2, padding=1)
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    index = torch.sigmoid(F.conv2d(y.clamp(0, 6), pointwise.weight))
    if double_sigmoid:
        index = torch.sigmoid(index)
    expected = F.pixel_shuffle(index, 2) * F.interpolate(x, scale_factor=2)
    torch.testing.assert_close(indexnet(x, guide), expected)


def test_indexnet_many_to_one_has_an_index_for_every_channel(x, guide):
    indexnet = randomised(build_upsampler({"name": "indexnet", "network": "m2o"}, 6, 8))
    output = indexnet(x, guide)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        index = torch.sigmoid(F.conv2d(guide, indexnet.indexnet.subpixels[2 * i + j].weight, stride=2))
        torch.testing.assert_close(output[:, :, i::2, j::2], x * index)


def test_a2u_sample_by_sample(x, guide):
    a2u = randomised(build_upsampler("a2u", 6, 8))
    norms = [sequential[0] for sequential in (a2u.bnu, a2u.bnv)]
    for sample in range(2):
        y = guide[sample : sample + 1]
        encoded = []
        for branch, norm in zip((a2u.bconv_U, a2u.bconv_V), norms, strict=True):
            kernel = branch[1](F.adaptive_avg_pool2d(y, 6))
            each_channel = F.conv2d(y.transpose(0, 1), kernel, stride=2, padding=2).transpose(0, 1)
            normed = F.group_norm(each_channel, 8, norm.weight, norm.bias)
            encoded.append(F.leaky_relu(normed, 0.01))
        affinity = (encoded[0] * encoded[1]).sum(1, keepdim=True) / 8**0.5
        logits = affinity * a2u.bconv_UP[1](y.mean((2, 3), keepdim=True))
        kernels = torch.softmax(torch.sigmoid(F.pixel_shuffle(logits, 2)), dim=1)
        expected = reassembly(x[sample : sample + 1], kernels, 3)
        torch.testing.assert_close(a2u(x, guide)[sample : sample + 1], expected, rtol=1e-4, atol=1e-5)


def test_default_norm_groups_fall_to_a_divisor_and_say_so_once():
    _warn_once.cache_clear()  # another test may have been told
    with pytest.warns(UserWarning, match="sapa norm: 32 groups do not divide 52 channels; using 26"):
        assert build_upsampler({"name": "sapa", "norm": "group"}, 52).norm_x.num_groups == 26
    with pytest.warns(UserWarning, match="a2u norm: 32 groups do not divide 48 channels; using 24"):
        assert build_upsampler("a2u", 48).bnu[0].num_groups == 24


def test_initial_weights_are_those_of_the_originals():
    torch.manual_seed(0)
    carafe, fade, sapa, lite = (build_upsampler(name, 256) for name in ("carafe", "fade", "sapa", "fade-lite"))
    std = {
        "compressor": (carafe.channel_compressor, (2 / (256 + 64)) ** 0.5),
        "encoder": (carafe.content_encoder, 0.001),
        "fade": (fade.content_encoder, (2 / (9 * (64 + 25))) ** 0.5),
        "lite": (lite.compressor_en, (2 / (256 + 25)) ** 0.5),
        "gate": (lite.gate, (2 / (256 + 1)) ** 0.5),
        "query": (sapa.q, 0.02),
        "key": (sapa.k, 0.02),
        "offset": (build_upsampler("dysample", 256).offset, 0.001),
    }
    for name, (layer, expected) in std.items():
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert torch.count_nonzero(layer.bias) == 0, name
    assert torch.count_nonzero(build_upsampler("dysample+", 256).scope.weight) == 0
    assert build_upsampler("deconv", 64).deconv.weight.abs().max().item() == pytest.approx(1 / 24, rel=0.01)
