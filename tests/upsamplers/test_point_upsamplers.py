"""SAPA-D, LDA-AQU and FAM from their formulas, pixel by pixel; their first weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.upsamplers.literal import assert_agrees, conv, enlarge, lively, nearest, normed, pixels, read
from upsamplers import build_upsampler
from upsamplers.points import sample_points

SCALES = pytest.mark.parametrize(("scale", "size"), [(2, (3, 4)), (3, (2, 3)), (4, (3, 2))])


def apply_norm(norm, x):
    return x if isinstance(norm, nn.Identity) else normed(x, norm.weight, norm.bias, norm.num_groups)


def sapa_d(module, x, y, s):
    g, n, (H, W) = module.groups, module.points, x.shape[1:]
    x_normed, y_normed = apply_norm(module.norm_x, x), apply_norm(module.norm_y, y)
    query, key, offset = conv(module.q, y_normed), conv(module.k, x_normed), conv(module.offset, x_normed)
    offset = F.pixel_shuffle(offset, s) if module.high_offset else nearest(offset, s)
    row, column = (each // s for each in pixels(s * H, s * W))
    parts = []
    for group, (queries, keys, values) in enumerate(zip(query.chunk(g), key.chunk(g), x.chunk(g), strict=True)):
        scores, readings = [], []
        for t in range(n):
            dx, dy = offset[(group * n + t) * 2], offset[(group * n + t) * 2 + 1]
            scores.append((queries * read(keys, row + dy, column + dx, "zeros")).sum(0))
            readings.append(read(values, row + dy, column + dx, "zeros"))
        total = sum(score.exp() for score in scores)
        parts.append(sum(score.exp() / total * value for score, value in zip(scores, readings, strict=True)))
    return torch.cat(parts)


@SCALES
@pytest.mark.parametrize("options", [{}, {"norm": "group", "points": 4, "groups": 2, "high_offset": False}])
def test_sapa_d(scale, size, options):
    upsampler = lively({"name": "sapa-d", "embedding": 3, **options}, 8, 6, scale, std=0.6)
    assert_agrees(upsampler, sapa_d, size)


def test_sapa_d_with_zero_offsets_is_nearest():
    sapa = build_upsampler("sapa-d", 8)
    torch.nn.init.zeros_(sapa.offset.weight)
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(sapa(x, torch.randn(2, 8, 6, 8)), F.interpolate(x, scale_factor=2))


def lda_aqu(module, x, y, s):
    g, K, (H, W) = module.groups, module.kernel, x.shape[1:]
    n = normed(x, module.layer_norm.weight, module.layer_norm.bias, None)
    q, key = enlarge(conv(module.proj_q, n), s * H, s * W, align_corners=True), conv(module.proj_k, n)
    d = q.shape[0] // g
    depthwise, norm, _, last = module.conv_offset
    offsets = []
    for group in range(g):
        features = normed(conv(depthwise, q[group * d : (group + 1) * d]), norm.weight, norm.bias, None)
        features = features * (1 + torch.erf(features / math.sqrt(2))) / 2
        offsets.append(module.offset_range * torch.tanh(conv(last, features)))
    row, column = pixels(s * H, s * W)
    scores, readings = [], []
    for t in range(K * K):
        score, parts = 0, []
        for group, (queries, keys, values) in enumerate(zip(q.chunk(g), key.chunk(g), x.chunk(g), strict=True)):
            dy, dx = offsets[group][2 * t], offsets[group][2 * t + 1]
            h = (row + t // K - K // 2 + dy) * (H - 1) / (s * H - 1)
            w = (column + t % K - K // 2 + dx) * (W - 1) / (s * W - 1)
            bias = module.relative_position_bias_table[t, group * d : (group + 1) * d, None, None]
            score = score + (queries * (read(keys, h, w, "zeros") + bias)).sum(0) / math.sqrt(q.shape[0])
            parts.append(read(values, h, w, "zeros"))
        scores.append(score)
        readings.append(torch.cat(parts))
    total = sum(score.exp() for score in scores)
    return sum(score.exp() / total * value for score, value in zip(scores, readings, strict=True))


@SCALES
@pytest.mark.parametrize("options", [{}, {"reduction": 2, "groups": 1, "offset_range": 3.0}])
def test_lda_aqu(scale, size, options):
    assert_agrees(lively({"name": "lda_aqu", **options}, 32, 8, scale), lda_aqu, size)


def test_published_defaults_of_points():
    sapa, lda = build_upsampler("sapa-d", 256), build_upsampler("lda_aqu", 256)
    assert (sapa.groups, sapa.points, sapa.high_offset, sapa.q.out_channels) == (4, 9, True, 4 * 32)
    assert (lda.groups, lda.kernel, lda.offset_range, lda.proj_q.out_channels) == (2, 3, 11, 64)


def test_lda_aqu_starts_with_a_plain_window_around_bilinear():
    lda = build_upsampler("lda_aqu", 16)
    x = torch.randn(1, 16, 4, 5)
    found = lda.weighted_points(x, None)
    assert torch.equal(found.positions, found.starts.expand_as(found.positions))
    centre = sample_points(x, found.positions[:, :, 4:5], None, "zeros")
    torch.testing.assert_close(centre, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


def warp(x, flow):
    """Read x [C, H, W] at -1..1 between the outermost centres plus flow [2, h, w] / (w, h)."""
    (H, W), (height, width) = x.shape[1:], flow.shape[1:]
    row, column = pixels(height, width)
    grid_x = -1 + 2 * column / (width - 1) + flow[0] / width
    grid_y = -1 + 2 * row / (height - 1) + flow[1] / height
    return read(x, (grid_y + 1) / 2 * (H - 1), (grid_x + 1) / 2 * (W - 1), "zeros")


def fam(module, x, y, s):
    high = enlarge(conv(module.down_h, x), *y.shape[1:], align_corners=True)
    both = torch.cat([high, conv(module.down_l, y)])
    flow = conv(module.flow_make, both)
    if module.flow_gate is None:
        return warp(x, flow)
    gate = 1 / (1 + torch.exp(-conv(module.flow_gate, both)))
    return gate * warp(x, flow[:2]) + (1 - gate) * warp(y, flow[2:])


@SCALES
@pytest.mark.parametrize(("options", "guide_channels"), [({}, 6), ({"gated": True}, 8)])
def test_fam(scale, size, options, guide_channels):
    assert_agrees(lively({"name": "fam", **options}, 8, guide_channels, scale, std=1.0), fam, size)


def test_fam_without_flow_is_bilinear_between_the_outermost_centres():
    upsampler = build_upsampler("fam", 8)
    torch.nn.init.zeros_(upsampler.flow_make.weight)
    x = torch.randn(2, 8, 3, 4)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsampler(x, torch.randn(2, 8, 6, 8)), expected)


@pytest.mark.parametrize("name", ["fam", "lda_aqu"])
def test_a_map_of_one_row_and_an_output_of_one_column_are_well_defined(name):
    for scale, size in ((2, (1, 3)), (1, (3, 1))):
        x = torch.randn(1, 16, *size)
        output = build_upsampler(name, 16, scale=scale)(x, torch.randn(1, 16, scale * size[0], scale * size[1]))
        assert output.isfinite().all()


def test_gated_fam_needs_equal_channels():
    with pytest.raises(ValueError, match="6 and 8 channels"):
        build_upsampler({"name": "fam", "gated": True}, 8, 6)


@pytest.mark.parametrize("name", ["sapa-d", "lda_aqu", "fam"])
@pytest.mark.parametrize("autocast", [False, True])
def test_points_are_float32_in_half_precision(name, autocast):
    upsampler = build_upsampler(name, 16)
    x, guide = torch.randn(1, 16, 3, 4).bfloat16(), torch.randn(1, 16, 6, 8).bfloat16()
    if not autocast:
        upsampler = upsampler.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = upsampler.weighted_points(x, guide)
    assert found.positions.dtype == torch.float32


def test_initial_weights_are_those_of_the_originals():
    torch.manual_seed(0)
    sapa, lda, flow = (build_upsampler(name, 256) for name in ("sapa-d", "lda_aqu", "fam"))
    for layer in (sapa.q, sapa.k, sapa.offset):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()
    # A first point of SAPA-D is about a third of a pixel away: the features spread the points, not a grid.
    x = torch.randn(1, 256, 16, 16)
    found = sapa.weighted_points(x, torch.randn(1, 256, 32, 32))
    assert (found.positions - found.starts).std().item() == pytest.approx(0.32, rel=0.05)
    for layer in (lda.proj_q, lda.proj_k):
        assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 64)), rel=0.01)  # Xavier, uniform
    assert lda.conv_offset[0].weight.std().item() == pytest.approx(math.sqrt(2 / (9 + 9 * 32)), rel=0.15)
    assert not lda.conv_offset[3].weight.any()
    assert not lda.conv_offset[3].bias.any()
    assert lda.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.1)
    assert flow.down_h.weight.abs().max().item() == pytest.approx(1 / 16, rel=0.01)  # PyTorch's default
    found = flow.weighted_points(x, torch.randn(1, 256, 32, 32))
    assert (found.positions - found.starts).std().item() == pytest.approx(0.07, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"), [({"kernel": 3}, "kernel is an option of SAPA-B"), ({"groups": 3}, "3")]
)
def test_options_of_the_other_sapa_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_upsampler({"name": "sapa", "deform": True, **options}, 16)
    with pytest.raises(ValueError, match="options of deform, which is off"):
        build_upsampler({"name": "sapa", "points": 4}, 16)
