"""DySample against a literal loop, against interpolation, and where the published module fails."""

import math

import pytest
import torch
import torch.nn.functional as F

from upsamplers import DySample, build_upsampler, points_cpu
from upsamplers.sampling import compiled_sample, plain_sample


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def literal(x, weights, scale, style, groups, scope, start):
    """DySample pixel by pixel on Python numbers, one image; weights: offset.weight, offset.bias[, scope.weight]."""
    C, H, W = x.shape
    s = scale
    value = x.tolist()

    def predict(weight, bias, axis, group, h, w, i, j):
        if style == "lp":
            out = ((axis * groups + group) * s + i) * s + j
            features = [value[c][h][w] for c in range(C)]
        else:
            out = axis * groups + group
            features = [value[c * s * s + i * s + j][h][w] for c in range(C // s**2)]
        return sum(a * b for a, b in zip(weight[out].flatten().tolist(), features, strict=True)) + bias[out].item()

    def read(c, X, Y):
        X, Y = min(max(X - 0.5, 0), W - 1), min(max(Y - 0.5, 0), H - 1)
        left, top = math.floor(X), math.floor(Y)
        right, bottom = min(left + 1, W - 1), min(top + 1, H - 1)
        a, b = X - left, Y - top
        upper = (1 - a) * value[c][top][left] + a * value[c][top][right]
        return (1 - b) * upper + b * ((1 - a) * value[c][bottom][left] + a * value[c][bottom][right])

    output = torch.zeros(C, s * H, s * W)
    for h, w, i, j, g in (
        (h, w, i, j, g) for h in range(H) for w in range(W) for i in range(s) for j in range(s) for g in range(groups)
    ):
        delta = []
        for axis in (0, 1):
            offset = predict(weights[0], weights[1], axis, g, h, w, i, j)
            if len(weights) == 3:
                gate = predict(weights[2], torch.zeros(len(weights[2])), axis, g, h, w, i, j)
                delta.append(2 * scope / (1 + math.exp(-gate)) * offset)
            else:
                delta.append(scope * offset)
        X, Y = w + 0.5 + delta[0], h + 0.5 + delta[1]
        if start == "bilinear":
            X, Y = X + (j - (s - 1) / 2) / s, Y + (i - (s - 1) / 2) / s
        for c in range(g * C // groups, (g + 1) * C // groups):
            output[c, s * h + i, s * w + j] = read(c, X, Y)
    return output


@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize(
    ("scale", "groups", "start", "scope"),
    [(2, 4, "bilinear", 0.25), (3, 2, "bilinear", 0.25), (2, 2, "nearest", 1.0), (4, 1, "bilinear", 0.1)],
)
def test_result_is_that_of_a_literal_loop(style, dyscope, scale, groups, start, scope):
    channels = 8 if scale == 2 else 2 * scale**2
    module = randomised(DySample(channels, scale, style, groups, dyscope, start=start, scope=scope))
    x = torch.randn(2, channels, 2, 3, generator=torch.Generator().manual_seed(2))
    weights = [module.offset.weight, module.offset.bias] + ([module.scope.weight] if dyscope else [])
    expected = torch.stack([literal(image, weights, scale, style, groups, scope, start) for image in x])
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("start", ["bilinear", "nearest"])
def test_zero_offsets_interpolate(style, scale, start):
    module = DySample(144, scale, style, start=start)
    torch.nn.init.zeros_(module.offset.weight)
    x = torch.randn(1, 144, 5, 7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x), F.interpolate(x, scale_factor=scale, mode=start), rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", ["dysample", "dysample+", "dysample-s", "dysample-s+"])
def test_fresh_module_is_nearly_bilinear(name):
    torch.manual_seed(0)
    x = torch.randn(1, 256, 16, 16)
    bilinear = build_upsampler("bilinear", 256)(x)
    assert (build_upsampler(name, 256)(x) - bilinear).norm() < 0.02 * bilinear.norm()


def test_dynamic_scope_starts_at_the_static_factor():
    static, dynamic = randomised(DySample(8)), DySample(8, dyscope=True)
    dynamic.offset.load_state_dict(static.offset.state_dict())
    x = torch.randn(1, 8, 4, 5)
    torch.testing.assert_close(dynamic(x), static(x))


def test_scope_is_the_reach_of_an_offset_of_one():
    module = DySample(4, scope=0.1)
    torch.nn.init.zeros_(module.offset.weight)
    x = torch.zeros(1, 4, 3, 3)
    before = module.sampling_points(x)
    torch.nn.init.ones_(module.offset.bias)
    torch.testing.assert_close(module.sampling_points(x) - before, torch.full_like(before, 0.1))


def test_sampling_points_start_at_quarter_pixels_column_first():
    module = DySample(4)
    torch.nn.init.zeros_(module.offset.weight)
    points = module.sampling_points(torch.zeros(1, 4, 2, 3))
    assert points.shape == (1, 4, 4, 6, 2)
    assert points[0, 0, 1].tolist() == [[c, 0.75] for c in (0.25, 0.75, 1.25, 1.75, 2.25, 2.75)]


def test_scale_four_starts_as_published():
    init_pos = DySample(8, scale=4, groups=2).init_pos
    steps = [-0.375, -0.125, 0.125, 0.375]
    assert init_pos.shape == (1, 64, 1, 1)
    by_axis = init_pos.reshape(2, 2, 4, 4)
    assert by_axis[0, 1, 2].tolist() == steps  # x varies along sub-columns, the fastest
    assert by_axis[1, 0, :, 3].tolist() == steps


def test_state_dict_has_the_published_keys():
    shapes = {key: tuple(value.shape) for key, value in DySample(64, 2, "lp", 4, True).state_dict().items()}
    assert shapes == {
        "offset.weight": (32, 64, 1, 1),
        "offset.bias": (32,),
        "scope.weight": (32, 64, 1, 1),
        "init_pos": (1, 32, 1, 1),
    }
    shapes = {key: tuple(value.shape) for key, value in DySample(64, 2, "pl", 8).state_dict().items()}
    assert shapes == {"offset.weight": (16, 16, 1, 1), "offset.bias": (16,), "init_pos": (1, 64, 1, 1)}


def test_naive_is_nearest_plus_one_unscaled_set_of_offsets():
    naive = build_upsampler("naive", 16)
    assert (naive.groups, naive.sampling.start, naive.sampling.factor, naive.offset.weight.shape[0]) == (
        1,
        "nearest",
        1.0,
        8,
    )
    torch.nn.init.zeros_(naive.offset.weight)
    x = torch.randn(1, 16, 5, 6)
    torch.testing.assert_close(naive(x), build_upsampler("nearest", 16)(x), rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", ["naive", "dysample", "dysample+", "dysample-s", "dysample-s+"])
def test_bfloat16_positions_are_exact_to_a_hundredth_pixel(name):
    module = build_upsampler(name, 8)
    torch.nn.init.normal_(module.offset.weight, std=0.1)
    x = torch.randn(1, 8, 3, 200).bfloat16()
    expected = module.sampling_points(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = module.sampling_points(x)
    converted = module.bfloat16().sampling_points(x)
    assert converted.dtype == autocast.dtype == torch.float32
    torch.testing.assert_close(converted, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(autocast, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_half_precision_map_on_the_cpu(dtype):  # torch's own kernel indexes with 16 bits beyond 32,767 pixels
    module = DySample(4)
    torch.nn.init.zeros_(module.offset.weight)
    x = torch.rand(1, 4, 182, 182)
    output = module.to(dtype)(x.to(dtype))
    torch.testing.assert_close(output.float(), F.interpolate(x, scale_factor=2, mode="bilinear"), rtol=0, atol=0.01)


def test_default_groups_fall_to_a_divisor_and_say_so_once(recwarn):
    assert DySample(34).groups == 2
    assert DySample(34).groups == 2
    assert build_upsampler("dysample-s", 28).groups == 7
    messages = [str(warning.message) for warning in recwarn]
    assert messages == [
        "dysample: 4 groups do not divide 34 channels; using 2",
        "dysample: 8 groups do not divide 28 channels; using 7",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"groups must divide the 10 channels, got 3; valid: \[1, 2, 5, 10\]"),
        ({"groups": 0}, "groups must be a whole number"),
        ({"style": "pl", "groups": 2}, "divisible by 4, got 10"),
        ({"style": "pp"}, "style must be 'lp' or 'pl'"),
        ({"start": "middle"}, "start must be"),
        ({"scope": 0.0}, "scope must be a number above 0"),
    ],
)
def test_unfit_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DySample(10, **options)


def test_published_positional_arguments():
    module = DySample(64, 4, "pl", 8, True)
    assert (module.channels, module.scale, module.style, module.groups) == (64, 4, "pl", 8)
    assert module(torch.randn(1, 64, 2, 3)).shape == (1, 64, 8, 12)


@pytest.mark.parametrize("by", [compiled_sample, plain_sample])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["dysample", "dysample-s+"])
def test_positions_that_are_no_numbers_show_in_the_result_and_crash_nothing(name, value, by, monkeypatch):
    if by is plain_sample:
        monkeypatch.setattr(points_cpu, "is_available", lambda: False)
    elif not points_cpu.is_available():
        pytest.skip("needs a C++ compiler")
    upsampler = build_upsampler(name, 16)
    with torch.no_grad():
        upsampler.offset.bias[0] = value
    x = torch.randn(2, 16, 24, 32, requires_grad=True)
    wrong = ~upsampler.sampling_points(x).isfinite().all(-1)
    assert 0 < wrong.sum() < wrong.numel()
    output = upsampler(x)
    if by is plain_sample:
        assert output.isnan().all()
    else:
        assert torch.equal(output.unflatten(1, (upsampler.groups, -1)).isnan().any(2), wrong)
        assert torch.equal(output.unflatten(1, (upsampler.groups, -1)).isnan().all(2), wrong)
    output.sum().backward()
