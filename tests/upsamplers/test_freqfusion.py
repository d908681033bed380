"""FreqFusion from its formulas; its switches; its first weights."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.upsamplers.literal import assert_agrees, conv, inputs, lively, normed, pixels, read, taps, window_sum
from upsamplers import build_upsampler
from upsamplers.reassemble import reassemble


def kernels(logits, hamming):
    K = round(logits.shape[0] ** 0.5)
    weights = logits.exp() / logits.exp().sum(0)
    if hamming:
        window = {3: [0.08, 1, 0.08], 5: [0.08, 0.54, 1, 0.54, 0.08]}[K]
        weights = torch.stack(
            [weights[K * i + j] * window[i] * window[j] for i, j in itertools.product(range(K), range(K))]
        )
        weights = weights / weights.sum(0)
    return weights


def with_similarities(norm, z):
    z = z if isinstance(norm, torch.nn.Identity) else normed(z, norm.weight, norm.bias, norm.num_groups)
    length = z.square().sum(0).sqrt()
    parts = [z]
    for tap, seen in enumerate(taps(z, 3, dilation=2)):
        if tap != 4:
            far = seen.square().sum(0).clamp(min=1e-30).sqrt()
            parts.append(((z * seen).sum(0) / (length * far.clamp(min=1e-8)))[None])
    return torch.cat(parts)


def resample(module, u, h, low):
    fine, coarse = with_similarities(module.norm_hr, h), with_similarities(module.norm_lr, low)
    offset = F.pixel_shuffle(conv(module.offset, coarse), 2) + conv(module.hr_offset, fine)
    scale = F.pixel_shuffle(conv(module.direct_scale, coarse), 2) + conv(module.hr_direct_scale, fine)
    offset = offset / (1 + torch.exp(-scale))
    g, (row, column) = module.groups, pixels(*u.shape[1:])
    parts = []
    for group, part in enumerate(u.chunk(g)):
        # In low-res pixels a pixel of u is half, and its sub-pixels lie a quarter from the centre.
        centre_x, centre_y = column // 2 + 0.5, row // 2 + 0.5
        x = centre_x + offset[group] + (column % 2 - 0.5) / 2
        y = centre_y + offset[g + group] + (row % 2 - 0.5) / 2
        parts.append(read(part, 2 * y - 0.5, 2 * x - 0.5, "border"))
    return torch.cat(parts)


def freqfusion(module, x, y, s):
    h, low = conv(module.hr_channel_compressor, y), conv(module.lr_channel_compressor, x)
    encode5, encode3 = module.content_encoder, module.content_encoder2
    a = conv(encode3, h)
    h = 2 * h - window_sum(h, kernels(a, module.hamming))
    b = conv(encode5, h)
    m_low = b + window_sum(conv(encode5, low), kernels(b, module.hamming), 2)
    m_high = a + window_sum(conv(encode3, low), kernels(m_low, module.hamming), 2)
    u = window_sum(x, kernels(m_low, module.hamming), 2)
    if module.dysampler is not None:
        u = resample(module.dysampler, u, h, low)
    return u + y - window_sum(y, kernels(m_high, module.hamming)) if module.high_pass else u


@pytest.mark.parametrize(
    ("options", "guide_channels"),
    [
        ({"compressed_channels": 16}, 8),
        ({"compressed_channels": 8, "resample_groups": 2, "resample_norm": False, "hamming": False}, 6),
        ({"compressed_channels": 8, "resample": False, "high_pass": True}, 8),
        ({"high_pass": False}, 8),
    ],
)
def test_freqfusion(options, guide_channels):
    assert_agrees(lively({"name": "freqfusion", **options}, 8, guide_channels, 2, std=0.2), freqfusion, (3, 4))


@pytest.mark.parametrize(("taps_", "centre"), [(25, 0.199), (9, 0.743)])
def test_equal_logits_weigh_the_centre_most(taps_, centre):
    weights = build_upsampler("freqfusion", 16)._normalise(torch.zeros(1, taps_, 1, 1))
    assert weights.sum().item() == pytest.approx(1)
    assert weights.flatten()[taps_ // 2].item() == pytest.approx(centre, abs=5e-4)


def test_the_guide_in_a_host_that_adds_is_the_published_sum():
    module = lively("freqfusion", 8, 8, 2, std=0.2)
    x, y = inputs(8, 8, 3, 4, 2)
    alone = build_upsampler({"name": "freqfusion", "high_pass": False}, 8).double()
    alone.load_state_dict(module.state_dict())
    fine, coarse = module._compress(x, y)
    logits = fine.high_pass + reassemble(module.content_encoder2(coarse), module.kernels(x, y))
    sharper = y + (y - module._filter(y, logits))  # what the published module returns as its guide
    torch.testing.assert_close(y + module(x, y), sharper + alone(x, y))


def test_high_frequencies_are_added_only_where_channels_agree():
    assert build_upsampler("freqfusion", 16).high_pass
    assert not build_upsampler("freqfusion", 16, 8).high_pass
    with pytest.raises(ValueError, match="8 and 16 channels"):
        build_upsampler({"name": "freqfusion", "high_pass": True}, 16, 8)


def test_the_resampler_starts_as_the_identity_or_as_published():
    torch.manual_seed(0)
    x, y = torch.randn(1, 256, 16, 16), torch.randn(1, 256, 32, 32)
    spread = {}
    for init in ("identity", "published"):
        module = build_upsampler({"name": "freqfusion", "init": init}, 256)
        points = module.weighted_points(x, y)
        spread[init] = (points.positions - points.starts).std().item()
    assert spread["identity"] == pytest.approx(0.02, abs=0.02)
    assert spread["published"] == pytest.approx(0.95, rel=0.1)


def test_initial_weights_are_those_of_the_original():
    torch.manual_seed(0)
    module = build_upsampler({"name": "freqfusion", "init": "published"}, 256)
    resampler = module.dysampler
    xavier = {  # fan in and fan out together
        module.hr_channel_compressor: 256 + 64,
        module.lr_channel_compressor: 256 + 64,
        resampler.offset: 9 * (72 + 32),
        resampler.direct_scale: 9 * (72 + 32),
        resampler.hr_offset: 9 * (72 + 8),
        resampler.hr_direct_scale: 9 * (72 + 8),
    }
    for layer, fans in xavier.items():
        assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.02)
        assert not layer.bias.any()
    for layer in (module.content_encoder, module.content_encoder2):
        assert layer.weight.std().item() == pytest.approx(0.001, rel=0.05)
        assert not layer.bias.any()
    own = build_upsampler("freqfusion", 256).dysampler
    for layer in (own.offset, own.hr_offset):
        assert layer.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for layer in (own.direct_scale, own.hr_direct_scale):
        assert not layer.weight.any()


def test_bad_options_are_refused():
    for option in ("compressed_channels", "resample_groups"):
        with pytest.raises(ValueError, match=option):
            build_upsampler({"name": "freqfusion", option: 0}, 16)
    with pytest.raises(ValueError, match="resample_groups must divide the 16 channels, got 3"):
        build_upsampler({"name": "freqfusion", "resample_groups": 3}, 16)
