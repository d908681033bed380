"""What every upsampler promises, checked over all names."""

import subprocess
import sys

import pytest
import torch

from upsamplers import NAMES, NEWER_NAMES, build_upsampler, points_cpu

GUIDED = {"indexnet", "a2u", "fade", "sapa", "fam", "sapa-d", "fade-lite", "resfu", "freqfusion"}
SCALE_TWO = {"deconv", "indexnet", "a2u", "freqfusion"}
OFFSETS = ("dysample", "naive", "carafe", "sapa-d", "lda_aqu", "freqfusion", "fam")

# With few channels LDA-AQU's norm of an offset's features would be little more than a sign.
OPTIONS = {"lda_aqu": {"reduction": 1, "groups": 1, "offset_range": 2.0}}

all_names = pytest.mark.parametrize("name", NAMES)


def build(name, channels=16, guide_channels=8, scale=2, seed=0):
    torch.manual_seed(seed)
    upsampler = build_upsampler({"name": name, **OPTIONS.get(name, {})}, channels, guide_channels, scale)
    for key, parameter in upsampler.named_parameters():  # away from an init at which nothing depends on anything
        if parameter.ndim == 4 and name.startswith(OFFSETS):
            torch.nn.init.normal_(parameter, std=0.05 if "scope" not in key else 0.2)
        if key.startswith("conv_offset.3.bias"):  # away from pixel centres
            torch.nn.init.normal_(parameter, std=0.3)
    return upsampler


def inputs(channels=16, guide_channels=8, height=5, width=7, batch=2, scale=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, height, width, generator=generator)
    guide = torch.randn(batch, guide_channels, scale * height, scale * width, generator=generator)
    return x, guide


@all_names
@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_size_is_that_of_an_even_or_odd_guide(name, missing):
    upsampler = build(name)
    x, guide = inputs()
    guide = guide[:, :, : 10 - missing[0], : 14 - missing[1]]
    assert upsampler(x, guide).shape == (2, 16, 10 - missing[0], 14 - missing[1])


@all_names
def test_cropped_result_is_the_corner_of_the_whole(name):
    upsampler = build(name).eval()
    x, guide = inputs()
    whole = upsampler(x, guide) if name in GUIDED else upsampler(x)
    assert whole.shape == (2, 16, 10, 14)
    if name not in GUIDED:
        assert torch.equal(upsampler(x, size=(9, 13)), whole[:, :, :9, :13])
        assert torch.equal(upsampler(x, torch.zeros(2, 3, 9, 14, dtype=torch.uint8)), whole[:, :, :9])


@pytest.mark.parametrize("name", sorted(GUIDED))
def test_odd_guide_is_continued_by_its_last_row_and_column(name):
    upsampler = build(name).eval()
    x, guide = inputs()
    guide[:, :, -1] = guide[:, :, -2]
    guide[:, :, :, -1] = guide[:, :, :, -2]
    torch.testing.assert_close(upsampler(x, guide[:, :, :9, :13]), upsampler(x, guide)[:, :, :9, :13])


@all_names
@pytest.mark.parametrize("scale", [1, 3])
def test_other_scales_work_or_are_refused(name, scale):
    if name in SCALE_TWO:
        with pytest.raises(ValueError, match="scale 2 only"):
            build_upsampler(name, 36, scale=scale)
    else:
        x, guide = inputs(36, 36, scale=scale)
        assert build_upsampler(name, 36, scale=scale)(x, guide).shape == (2, 36, 5 * scale, 7 * scale)


@all_names
def test_empty_batch_gives_an_empty_result_and_zero_gradients(name):
    upsampler = build(name)
    x, guide = inputs()
    for target in (guide[:0], guide[:0, :, :9, :13]):
        empty = x[:0].clone().requires_grad_()
        output = upsampler(empty, target)
        assert output.shape == (0, 16, *target.shape[2:])
        output.sum().backward()
        assert all(torch.count_nonzero(p.grad) == 0 for p in upsampler.parameters() if p.grad is not None)
    assert all(torch.isfinite(value).all() for value in upsampler.state_dict().values())


@all_names
def test_strides_do_not_matter(name):
    upsampler = build(name).eval()
    x, guide = inputs()
    expected = upsampler(x, guide)
    views = [
        [t.to(memory_format=torch.channels_last) for t in (x, guide)],
        [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (x, guide)],
        [torch.stack([t, t], dim=-1)[..., 0] for t in (x, guide)],
    ]
    for view in views:
        torch.testing.assert_close(upsampler(*view), expected)
    torch.testing.assert_close(upsampler.to(memory_format=torch.channels_last)(*views[0]), expected)


@all_names
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.0025)])
def test_half_precision_stays_close_beyond_column_128(name, dtype, tolerance):
    upsampler = build(name, 8, 8).eval()
    x, guide = inputs(8, 8, height=4, width=200, batch=1)
    with torch.no_grad():
        expected = upsampler(x, guide)
        output = upsampler.to(dtype)(x.to(dtype), guide.to(dtype))
    assert output.dtype == dtype
    assert (output.float() - expected).norm() < tolerance * expected.norm()


@all_names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_dtype_of_x_and_the_result(name, dtype):
    upsampler = build(name, 8, 8).eval()
    x, guide = inputs(8, 8, height=4, width=200, batch=1)
    with torch.no_grad():
        expected = upsampler(x, guide)
        with torch.autocast("cpu", torch.bfloat16):
            output = upsampler(x.to(dtype), guide.to(dtype))
    assert output.dtype == dtype
    assert (output.float() - expected).norm() < 0.02 * expected.norm()


@all_names
def test_gradients_reach_every_parameter_and_input(name):
    upsampler = build(name)
    x, guide = (tensor.requires_grad_() for tensor in inputs())
    output = upsampler(x, guide)
    (output * torch.randn_like(output)).sum().backward()
    leaves = {"x": x, **dict(upsampler.named_parameters()), **({"guide": guide} if name in GUIDED else {})}
    for key, leaf in leaves.items():
        assert leaf.grad is not None, key
        assert torch.isfinite(leaf.grad).all(), key
        assert torch.count_nonzero(leaf.grad) > 0, key


@pytest.mark.parametrize("name", ["dysample", "dysample-s+", "fam", "lda_aqu", "freqfusion", "sapa-d"])
def test_deterministic_gradients_are_the_same_without_that_of_grid_sample(name, monkeypatch):
    upsampler = build(name)
    x, guide = (tensor.requires_grad_() for tensor in inputs())
    leaves = [x, *([guide] if name in GUIDED else []), *upsampler.parameters()]
    monkeypatch.setattr(points_cpu, "is_available", lambda: False)
    grid_sample = torch.nn.functional.grid_sample

    def without_gradient(*arguments, **options):
        assert not torch.is_grad_enabled()
        return grid_sample(*arguments, **options)

    results = []
    for _ in range(2):
        output = upsampler(x, guide)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
        # On CUDA this gradient is not deterministic. Switching the mode on in earnest takes seconds, for imports.
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        monkeypatch.setattr(torch.nn.functional, "grid_sample", without_gradient)
        monkeypatch.setattr(torch.ops.aten, "grid_sampler_2d_backward", None)
    monkeypatch.undo()
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["carafe", "indexnet", "a2u", "fade", "sapa", "dysample+", "dysample-s+", *NEWER_NAMES]
)
def test_gradients_are_those_of_finite_differences(name):
    upsampler = build(name, 4, 4).double().eval()
    x, guide = (tensor.double().requires_grad_() for tensor in inputs(4, 4, height=2, width=3, batch=1))
    parameters = [p for p in upsampler.parameters() if p.numel() < 200]
    assert torch.autograd.gradcheck(
        lambda x, guide, *_: upsampler(x, guide), (x, guide, *parameters), fast_mode=True, atol=1e-4
    )


@all_names
def test_state_dict_restores_the_result(name):
    upsampler, other = build(name).eval(), build(name, seed=1).eval()
    x, guide = inputs()
    other.load_state_dict(upsampler.state_dict())
    assert torch.equal(other(x, guide), upsampler(x, guide))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fade", {"guide": None}, "guide"),
        ("fade", {"guide": torch.zeros(2, 4, 10, 14)}, r"guide must be \[B, 8, H, W\]"),
        ("fade", {"guide": torch.zeros(1, 8, 10, 14)}, "2 images in x, but 1"),
        ("fade", {"guide": torch.zeros(2, 8, 10, 14, dtype=torch.int64)}, "floating point"),
        ("nearest", {"x": torch.zeros(2, 15, 5, 7)}, r"\[B, 16, H, W\]"),
        ("nearest", {"x": torch.zeros(16, 5, 7)}, r"\[B, 16, H, W\]"),
        ("nearest", {"x": torch.zeros(2, 16, 5, 7, dtype=torch.int64)}, "floating point"),
        ("nearest", {"size": (8, 14)}, "10 x 14 .* cropped to 9 x 13 at least; the target is 8 x 14"),
        ("nearest", {"size": (10, 15)}, "target is 10 x 15"),
        ("nearest", {"size": (10,)}, "size must be"),
        ("sapa", {"guide": torch.zeros(2, 8, 10, 14), "size": (9, 14)}, "not the guide's"),
        ("nearest", {"guide": torch.zeros(8, 10, 14)}, "guide must be"),
    ],
)
def test_unfit_input_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name)(**{"x": inputs()[0], **arguments})


def test_size_wins_where_the_guide_is_not_read():
    x, guide = inputs()
    assert build("nearest")(x, guide=guide, size=(9, 14)).shape[2:] == (9, 14)


@pytest.mark.parametrize("scale", [0, -2, 2.0, True, "2"])
def test_scale_is_a_whole_number(scale):
    with pytest.raises(ValueError, match="scale must be a whole number"):
        build_upsampler("dysample", 16, scale=scale)


def test_package_needs_torch_alone():
    script = """
import sys, torch
before = {name.partition(".")[0] for name in sys.modules}
import upsamplers
new = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names) - {"upsamplers"}
print(sorted(new))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@all_names
def test_the_rest_of_a_model_starts_the_same_with_every_upsampler(name):
    def rest(upsampler: str) -> torch.Tensor:
        torch.manual_seed(3)
        first, _ = build_upsampler(upsampler, 16), build_upsampler(upsampler, 32)
        stages = [build_upsampler(upsampler, 16) for _ in range(2)]
        weights = [list(stage.parameters()) for stage in (first, *stages)]
        for one, other in zip(weights[0], weights[1], strict=True):
            assert one.unique().numel() == 1 or not torch.equal(one, other)  # but stages differ
        return torch.randn(9)

    assert torch.equal(rest(name), rest("nearest"))
