"""Compiled point sampling against PyTorch's operators in float64, and what happens where nothing can be compiled."""

import subprocess

import pytest
import torch

from upsamplers import DySample, compiled, maps_cpu, points_cpu
from upsamplers.points import plain_sample_points, plain_score_points
from upsamplers.sampling import PointSampling, compiled_sample, plain_sample

compiles = pytest.mark.skipif(not points_cpu.is_available(), reason="needs a C++ compiler")
PADDINGS = pytest.mark.parametrize("padding", ["border", "zeros"])
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# Images, channels, rows and columns, groups, points, rows and columns of the output.
SHAPES = [(2, 8, 5, 7, 2, 1, 6, 9), (1, 96, 9, 4, 2, 3, 16, 19), (1, 33, 1, 1, 1, 2, 3, 70), (2, 3, 1, 20, 3, 1, 1, 1)]
# In channels_last, maps are read in place where there are four or more of whole vectors.
SHAPES += [(1, 64, 9, 4, 4, 1, 16, 19), (2, 64, 5, 7, 2, 3, 6, 9)]


def example(B, C, H, W, g, n, h, w, dtype=torch.float32, layout=torch.contiguous_format):
    """x, positions (some far outside), weights, and something of the output's size, as leaves."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    x, y = (draw(B, C, *size).to(dtype).to(memory_format=layout) for size in ((H, W), (h, w)))
    spread = torch.rand((B, g, n, h, w, 2), generator=generator) * torch.tensor([W + 5.0, H + 5.0]) - 2.5
    spread[..., 0, 0, :] = -1e30
    if layout == torch.channels_last:  # columns and rows apart
        spread = spread.movedim(-1, 1).contiguous().movedim(1, -1)
    return [part.requires_grad_() for part in (x, spread, draw(B, g, n, h, w), y)]


def results(function, *leaves):
    """The result and all gradients for a certain gradient of the result."""
    found = function(*leaves)
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [found, *torch.autograd.grad(found, [leaf for leaf in leaves if leaf is not None], along.to(found.dtype))]


def agree(function, plain, leaves, tolerance=2e-6):
    """The largest error is a small part of the largest value."""
    exact = [None if leaf is None else leaf.detach().double().requires_grad_() for leaf in leaves]
    for found, expected in zip(results(function, *leaves), results(plain, *exact), strict=True):
        difference = (found.double() - expected).abs().max()
        assert difference <= tolerance * expected.abs().max()


@compiles
@PADDINGS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_scores_and_their_gradients(shape, layout, padding):
    x, positions, weights, y = example(*shape, layout=layout)
    agree(
        lambda *parts: points_cpu.sample_points(*parts, padding),
        lambda *parts: plain_sample_points(*parts, padding),
        [x, positions, weights],
    )
    agree(
        lambda *parts: points_cpu.score_points(*parts, padding),
        lambda *parts: plain_score_points(*parts, padding),
        [y, x, positions],
    )


@compiles
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_results_alone(dtype, precision, layout):
    x, positions, weights, y = example(*SHAPES[1], dtype=dtype, layout=layout)
    sums = [points_cpu.sample_points, plain_sample_points]
    agree(*(lambda *parts, f=f: f(*parts, "zeros") for f in sums), [x, positions, weights], 2 * precision)
    found = points_cpu.sample_points(x, positions, weights, "zeros")
    assert found.dtype == dtype
    exact = plain_sample_points(x.double(), positions.double(), weights.double(), "zeros")
    assert ((found - exact).abs() <= 1.01 * precision * exact.abs() + 1e-5).all()
    scores = [points_cpu.score_points, plain_score_points]
    agree(*(lambda *parts, f=f: f(*parts, "zeros") for f in scores), [y, x, positions], 2 * precision)


@compiles
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_have_the_layout_of_the_map_and_any_other_is_read(layout):
    x, positions, weights, _ = example(*SHAPES[1], layout=layout)
    found, grad_x, *_ = results(lambda *parts: points_cpu.sample_points(*parts, "border"), x, positions, weights)
    assert found.is_contiguous(memory_format=layout)
    assert grad_x.stride() == x.stride()
    wide = torch.cat([x, x], dim=3)[..., : x.shape[3]]
    for dim in (1, 3):
        strided = positions.movedim(-1, dim).contiguous().movedim(dim, -1)
        torch.testing.assert_close(points_cpu.sample_points(wide, strided, weights, "border"), found)


@compiles
@PADDINGS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_threads_changes_no_bit(monkeypatch, padding, layout):
    monkeypatch.setattr(maps_cpu, "_WORTH_A_THREAD", 1)
    leaves = example(1, 192, 7, 8, 4, 2, 36, 40, layout=layout)[:3]
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(results(lambda *parts: points_cpu.sample_points(*parts, padding), *leaves))
    assert all(torch.equal(one, other) for other in found[1:] for one, other in zip(found[0], other, strict=True))


@compiles
@pytest.mark.parametrize("dynamic", [False, True])
def test_dysample_gives_the_same_by_either_way(dynamic):
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 6)
    offset, scope = torch.randn(2, 32, 5, 6), torch.randn(2, 32, 5, 6) if dynamic else None
    leaves = [None if leaf is None else leaf.requires_grad_() for leaf in (x, offset, scope)]
    how = PointSampling("lp", 2, 4, "bilinear", 0.5)
    module = DySample(16)
    assert module.sampler(*leaves) is compiled_sample
    assert module.sampler(*(None if leaf is None else leaf.double() for leaf in leaves)) is plain_sample
    agree(lambda *parts: compiled_sample(*parts, how), lambda *parts: plain_sample(*parts, how), leaves, 1e-5)


def second(function, x):
    """The gradient of the gradient, for positions that depend on x."""
    x = x.detach().requires_grad_()
    positions = (x.mean(1)[:, None, None, ..., None] * torch.tensor([1.3, 0.7], dtype=x.dtype) + 2).abs()
    output = function(x, positions, None, "border")
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


@compiles
def test_gradients_of_gradients_are_those_of_pytorch():
    x = torch.randn(1, 4, 4, 5, generator=torch.Generator().manual_seed(0))
    try:
        expected = second(plain_sample_points, x.double())
    except RuntimeError as error:
        pytest.skip(f"PyTorch {torch.__version__}: {error}")
    torch.testing.assert_close(second(points_cpu.sample_points, x).double(), expected, rtol=1e-3, atol=1e-3)


@compiles
def test_fake_tensors_get_the_shapes_and_layouts_of_the_operators():
    x, positions, weights, y = example(*SHAPES[0], layout=torch.channels_last)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(points_cpu._sum, (x, positions, weights, True), test_utils=checks)
    torch.library.opcheck(points_cpu._scores, (y, x, positions, False), test_utils=checks)


# --- compiling -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Load a small source as a new process would, with an empty cache, and say what its function answers."""
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DENSEUP_CPU_KERNELS", raising=False)
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return 42; }')

    def load():
        library = compiled.load.__wrapped__(source)
        return None if library is None else library.answer()

    return load


@compiles
def test_what_was_compiled_is_used_again(fresh, monkeypatch, tmp_path):
    assert fresh() == 42
    assert [path.suffix for path in (tmp_path / "cache" / "compiled").iterdir()] == [".so"]
    monkeypatch.setattr(subprocess, "run", None)
    assert fresh() == 42


@compiles
def test_without_a_cache_a_process_compiles_for_itself(fresh, monkeypatch):
    monkeypatch.setenv("DENSEUP_CACHE", "/proc/nowhere")
    assert fresh() == 42


@compiles
def test_a_damaged_cache_harms_nothing(fresh, tmp_path):
    assert fresh() == 42
    (library,) = (tmp_path / "cache" / "compiled").iterdir()
    library.unlink()
    library.write_text("not a library")
    assert fresh() == 42


@pytest.mark.parametrize(
    ("variable", "value"), [("CXX", "/proc/nowhere"), ("CXX", "false"), ("CXX", ""), ("DENSEUP_CPU_KERNELS", "0")]
)
def test_without_compiler_or_if_switched_off_there_is_no_compiled_code(fresh, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert fresh() is None


def test_without_compiled_code_pytorch_computes_the_same(monkeypatch):
    x, module = torch.randn(1, 16, 4, 5, generator=torch.Generator().manual_seed(0)), DySample(16)
    expected = module(x)
    monkeypatch.setattr(points_cpu, "is_available", lambda: False)
    assert module.sampler(x, *module._predict_offsets(x)) is plain_sample
    torch.testing.assert_close(module(x), expected)
