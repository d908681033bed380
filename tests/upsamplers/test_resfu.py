"""ReSFU from its formulas, with its last sum in the published kernel's form; its first weights."""

import itertools
import math

import pytest
import torch

from tests.upsamplers.literal import assert_agrees, conv, enlarge, lively, normed, pixels, read, taps
from upsamplers import build_upsampler
from upsamplers.reassemble import reassemble
from upsamplers.resfu import guided_filter


def scores(module, key, query, s):
    """Differences of the keys around each pixel to its query, through two layers."""
    key, query = (normed(each, module.norm.weight, module.norm.bias, 8) for each in (key, query))
    total = module.bias[0]
    for tap, seen in enumerate(taps(key, 3, dilation=s, outside="border")):
        filters = module.weight[:, :, tap // 3, tap % 3]
        parts = zip(filters.chunk(4), (seen - query).chunk(4), strict=True)
        total = total + torch.cat([torch.einsum("oc,chw->ohw", *part) for part in parts])
    _, first, _, norm, last = module.channel_compressor
    middle = conv(first, total.clamp(min=0)).clamp(min=0)
    return conv(last, normed(middle, norm.weight, norm.bias, 8))


def box_mean(x, radius):
    H, W = x.shape[1:]
    result = torch.zeros_like(x)
    for row, column in itertools.product(range(H), range(W)):
        window = x[:, max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
        result[:, row, column] = window.mean((1, 2))
    return result


def filtered(guide, p):
    height, width = guide.shape[1:]
    rows, columns = 2 * torch.arange(max(height // 2, 1)), 2 * torch.arange(max(width // 2, 1))
    small, small_p = (each[:, rows][:, :, columns] for each in (guide, p))
    mean, mean_p = box_mean(small, 4), box_mean(small_p, 4)
    a = (box_mean(small * small_p, 4) - mean * mean_p) / (box_mean(small * small, 4) - mean * mean + 0.001)
    b = mean_p - a * mean
    a, b = (enlarge(box_mean(each, 4), height, width, align_corners=False) for each in (a, b))
    return a * guide + b


def blurred(x):
    weights = [math.exp(-(dy**2 + dx**2) / 2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return sum(w / sum(weights) * seen for w, seen in zip(weights, taps(x, 3, outside="border"), strict=True))


def resfu(module, x, y, s):
    (H, W), groups = x.shape[1:], module.norm_x.num_groups
    q = conv(module.q, normed(y, module.norm_y.weight, module.norm_y.bias, module.norm_y.num_groups))
    k = conv(module.k, normed(x, module.norm_x.weight, module.norm_x.bias, groups))
    k = enlarge(k, s * H, s * W, align_corners=False)
    total = scores(module.semantic_scores, k, filtered(q, k), s) + scores(module.detail_scores, blurred(q), q, s)
    row, column = pixels(s * H, s * W)
    weights, readings = [], []
    for tap, (dy, dx) in enumerate(itertools.product((-1, 0, 1), (-1, 0, 1))):
        h, w = row + s * dy, column + s * dx
        inside = (h >= 0) & (h < s * H) & (w >= 0) & (w < s * W)
        weights.append(torch.where(inside, total[tap], -1e7))
        # The published kernel reads x itself, clamped at its borders.
        place = [each // s + step + each % s / s - (s - 1) / (2 * s) for each, step in ((row, dy), (column, dx))]
        readings.append(read(x, *place, "border"))
    weights = torch.softmax(torch.stack(weights), dim=0)
    return sum(weight * value for weight, value in zip(weights, readings, strict=True))


@pytest.mark.parametrize(("scale", "size"), [(2, (3, 5)), (3, (3, 2)), (4, (2, 3))])
def test_resfu(scale, size):
    assert_agrees(lively({"name": "resfu", "embedding": 16, "mid_channels": 16}, 8, 6, scale), resfu, size)


def test_the_guided_filter_reads_every_second_pixel_also_of_odd_maps():
    generator = torch.Generator().manual_seed(0)
    for size in ((25, 31), (1, 7), (30, 26)):
        guide, p = (torch.randn(3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
        found = guided_filter(guide[None], p[None])[0]
        torch.testing.assert_close(found, filtered(guide, p), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_its_kernels_on_x_give_its_output(scale):
    module = lively({"name": "resfu", "embedding": 16, "mid_channels": 16}, 8, 6, scale)
    x = torch.randn(2, 8, 4, 3, dtype=torch.float64)
    guide = torch.randn(2, 6, 4 * scale, 3 * scale, dtype=torch.float64)
    kernels = module.kernels(x, guide)
    assert kernels.shape == (2, 1, 25, scale**2, 4, 3)
    torch.testing.assert_close(reassemble(x, kernels), module(x, guide), rtol=1e-5, atol=1e-6)


def test_an_output_pixel_sums_to_one_also_at_borders():
    module = build_upsampler("resfu", 16)
    ones = module(torch.ones(1, 16, 3, 4), torch.randn(1, 16, 6, 8))
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_initial_weights_are_those_of_the_original():
    torch.manual_seed(0)
    module = build_upsampler("resfu", 256)
    first = module.semantic_scores
    assert first.weight.std().item() == pytest.approx(0.0417, rel=0.03)
    assert not first.bias.any()
    for layer in (module.q, module.k, first.channel_compressor[1], first.channel_compressor[4]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.06)
        assert not layer.bias.any()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="embedding"):
        build_upsampler({"name": "resfu", "embedding": 0}, 16)
    with pytest.raises(ValueError, match="embedding must be a multiple of 8, got 12"):
        build_upsampler({"name": "resfu", "embedding": 12}, 16)
