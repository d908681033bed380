"""The Triton kernels against plain_sample. Every test of them is written once and runs twice.

On CUDA, marked `gpu`; and on the CPU by Triton's interpreter, in a process of its own, since the interpreter must be
chosen before Triton is imported. Positions are kept off whole numbers, where bilinear sampling has two slopes.
"""

import contextlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from upsamplers import DySample, operators, points_cpu
from upsamplers.points import plain_sample_points, plain_score_points, sample_points, score_points
from upsamplers.sampling import PointSampling, compiled_sample, fused_sample, plain_sample

triton_points = pytest.importorskip("upsamplers.points_triton", exc_type=ImportError)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def kernels(test):
    """Mark a test that runs the kernels on DEVICE."""
    for mark in [] if INTERPRETED else CUDA:
        test = mark(test)
    return test


def cuda_only(test):
    """Mark a test that needs CUDA itself."""
    for mark in CUDA:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def _setting(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if INTERPRETED:
        monkeypatch.setattr(operators, "_kernels", lambda device: triton_points)


@pytest.fixture(params=[True, False], ids=["window", "lists"])
def both_gradients(request, monkeypatch):
    """The gradient of features by a window and lists of what is outside it, and by lists of everything."""
    monkeypatch.setattr(triton_points, "WINDOW", request.param)


def tensors(style, scale, groups, shape, dynamic, reach=1.5, dtype=torch.float32, predicted=None):
    """x, offset and scope (None unless dynamic), and a gradient of the output."""
    B, C, H, W = shape
    s, generator = scale, torch.Generator().manual_seed(0)
    outputs = (B, 2 * groups * s**2, H, W) if style == "lp" else (B, 2 * groups, s * H, s * W)
    x, grad = torch.randn(shape, generator=generator), torch.randn(B, C, s * H, s * W, generator=generator)
    offset, scope = reach * torch.randn(outputs, generator=generator), torch.randn(outputs, generator=generator)
    predicted = dtype if predicted is None else predicted
    x, grad, offset = x.to(DEVICE, dtype), grad.to(DEVICE, dtype), offset.to(DEVICE, predicted)
    return x, offset, scope.to(DEVICE, predicted) if dynamic else None, grad


def results(sample, x, offset, scope, grad, *options):
    """The output, and the gradients of x, offset and scope."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, offset, scope) if tensor is not None]
    output = sample(*leaves, *([None] if scope is None else []), PointSampling(*options))
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def agree(x, offset, scope, grad, *options):
    fused, plain = (results(sample, x, offset, scope, grad, *options) for sample in (fused_sample, plain_sample))
    atol = 1e-5 if x.dtype == torch.float32 else 2e-3
    for ours, expected in zip(fused, plain, strict=True):
        rtol = {torch.float32: 1e-4, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}[ours.dtype]
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol)
    return fused


# The interpreter takes seconds for a few pixels. In every run of the suite: both styles, both gradients, several
# points, channels last, equal bits; the rest in `make test-slow`.
FEW = "plain_path and (shape2 or (lists and shape1)) or dtype0-True-border or same_bits and lists or not_covered"


@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter")
@pytest.mark.parametrize("chosen", [FEW, pytest.param("", id="all", marks=pytest.mark.slow)])
def test_everything_below_holds_in_tritons_interpreter(chosen):
    root = Path(__file__).parents[2]
    words = ["--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, __file__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip(f"the interpreter of this Triton knows no loops with NumPy {np.__version__}")
    assert done.returncode == 0, done.stdout + done.stderr


@kernels
@pytest.mark.usefixtures("both_gradients")
@pytest.mark.parametrize(
    ("style", "dynamic", "scale", "start", "groups", "shape"),
    [
        ("lp", False, 2, "bilinear", 2, (2, 4, 1, 2)),
        ("lp", True, 3, "nearest", 1, (1, 2, 2, 2)),
        ("pl", True, 2, "nearest", 2, (1, 4, 2, 1)),
        ("pl", False, 4, "bilinear", 1, (1, 1, 1, 2)),
    ],
)
def test_result_and_gradients_are_those_of_the_plain_path(style, dynamic, scale, start, groups, shape):
    agree(*tensors(style, scale, groups, shape, dynamic), style, scale, groups, start, 0.23)


@kernels
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 1, 5)])
def test_single_rows_and_columns(shape):
    agree(*tensors("lp", 2, 1, shape, True), "lp", 2, 1, "bilinear", 0.23)


@kernels
def test_positions_far_outside():
    agree(*tensors("lp", 2, 1, (1, 2, 2, 2), True, reach=40), "lp", 2, 1, "bilinear", 1.0)


@kernels
@pytest.mark.parametrize("last", [False, True])
def test_several_tiles_of_pixels_and_channels(last, monkeypatch):
    for name, value in (("BYTES_CHANNELS_LAST", 32), ("NUMBERS_CHANNELS_FIRST", 8)):
        monkeypatch.setattr(triton_points, name, value)
    for name in ("MOST_CHANNELS_LAST", "MOST_CHANNELS_FIRST"):
        monkeypatch.setattr(triton_points, name, 4)
    triton_points._plan.cache_clear()
    x, offset, scope, grad = tensors("lp", 2, 1, (1, 5, 1, 3), False)
    if last:
        x = x.to(memory_format=torch.channels_last)
    agree(x, offset, scope, grad, "lp", 2, 1, "bilinear", 0.23)
    triton_points._plan.cache_clear()


def points(dtype=torch.float32, last=False):
    """Weighted points: x, positions (some far outside), weights, and something of the size of the result, as leaves."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 4, *size, generator=generator).to(DEVICE, dtype) for size in ((2, 3), (1, 3)))
    if last:
        x = x.to(memory_format=torch.channels_last)
    positions = 3 * torch.randn(2, 2, 2, 1, 3, 2, generator=generator) + 1.5
    positions[0, 0, 0, 0, 0] = -1e30
    weights = torch.randn(2, 1, 2, 1, 3, generator=generator)
    return [part.to(DEVICE).requires_grad_() for part in (x, positions, weights, y)]


@kernels
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize(("dtype", "last"), [(torch.float32, True), (torch.bfloat16, False)])
def test_weighted_points_and_scores_are_those_in_float64(padding, dtype, last):
    x, positions, weights, y = points(dtype, last)
    leaves = {"sum": [x, positions, weights], "score": [y, x, positions]}
    ways = {"sum": (sample_points, plain_sample_points), "score": (score_points, plain_score_points)}
    for kind, parts in leaves.items():
        found = ways[kind][0](*parts, padding)
        exact_parts = [part.detach().double().requires_grad_() for part in parts]
        exact = ways[kind][1](*exact_parts, padding)
        along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        ours = [found, *torch.autograd.grad(found, parts, along.to(found.dtype))]
        theirs = [exact, *torch.autograd.grad(exact, exact_parts, along.to(found.dtype).double())]
        for one, other in zip(ours, theirs, strict=True):
            precision = 2**-7 if one.dtype == torch.bfloat16 else 2e-6  # the interpreter cuts digits off
            assert (one - other).abs().max() <= precision * other.abs().max()
    assert sample_points(x, positions, weights, padding).is_contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def widen(monkeypatch):
    """Addresses of 64 bits from now on."""
    plan = triton_points._plan

    def wide(*key):
        found = plan(*key)
        return found._replace(constants=found.constants | {"WIDE": True})

    monkeypatch.setattr(triton_points, "_plan", wide)


@kernels
@pytest.mark.usefixtures("both_gradients")
def test_wide_addresses_and_a_second_run_give_the_same_bits(monkeypatch):
    drawn = tensors("lp", 2, 1, (1, 2, 1, 2), True, reach=3)
    runs = [results(fused_sample, *drawn, "lp", 2, 1, "bilinear", 0.23) for _ in range(2)]
    widen(monkeypatch)
    runs.append(results(fused_sample, *drawn, "lp", 2, 1, "bilinear", 0.23))
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@kernels
def test_maps_beyond_32_bits_have_wide_addresses():
    # Memory that is never touched costs nothing. The second image begins behind 2**31 numbers.
    x = torch.empty(2, 1, 1 << 16, 1 << 15, dtype=torch.bfloat16, device=DEVICE)
    x[:, :, -1, -2:] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])[:, None]
    positions = torch.tensor([float(1 << 15) - 1.0, float(1 << 16)]).expand(2, 1, 1, 1, 1, 2)
    found = triton_points.sum_points(x, positions.to(DEVICE), None, True)
    assert found.flatten().tolist() == [1.5, 4.0]


@kernels
def test_operators_are_registered_as_pytorch_asks():
    x, positions, weights, y = (part.detach() for part in points(last=True))
    wide = weights.expand(positions.shape[:-1])
    checks = {"sum_points": (x, positions, wide, True), "score_points": (y, x, positions, False)}
    checks["sum_points_backward"] = (y, x, positions, None, False)
    checks["score_points_backward"] = (wide.contiguous(), y, x, positions, True)
    x, offset, scope, grad = tensors("pl", 2, 1, (1, 2, 1, 2), True)
    checks["sample_offsets"] = (x, offset, None, "pl", 2, 1, "bilinear", 0.25)
    checks["sample_offsets_backward"] = (grad, x, offset, scope, "pl", 2, 1, "bilinear", 0.25)
    for name, inputs in checks.items():
        torch.library.opcheck(getattr(torch.ops.denseup, name).default, inputs)


@kernels
def test_compiled_graphs_keep_the_kernels():
    x, offset, scope, grad = tensors("lp", 2, 1, (1, 2, 1, 2), True)
    compiled = torch.compile(fused_sample, backend="aot_eager", fullgraph=True)
    eager, traced = (results(f, x, offset, scope, grad, "lp", 2, 1, "bilinear", 0.25) for f in (fused_sample, compiled))
    assert all(map(torch.equal, eager, traced))


@kernels
def test_channels_last_stays_channels_last():
    drawn = [tensor.to(memory_format=torch.channels_last) for tensor in tensors("lp", 2, 1, (1, 3, 1, 2), True)]
    output, grad_x, *_ = agree(*drawn, "lp", 2, 1, "bilinear", 0.23)
    for tensor in (output, grad_x):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@kernels
def test_any_strides():
    x, offset, scope, grad = tensors("lp", 2, 1, (3, 4, 1, 2), True)
    views = [x.transpose(2, 3)[::2, ::2], offset.transpose(2, 3)[::2], scope.transpose(2, 3)[::2]]
    agree(*views, grad[:1, :1, :1, :1].expand(2, 2, 4, 2), "lp", 2, 1, "bilinear", 0.23)


@kernels
@pytest.mark.parametrize(("dtype", "predicted"), [(torch.bfloat16, None), (torch.float16, torch.float32)])
def test_half_precision(dtype, predicted):
    drawn = tensors("lp", 2, 1, (1, 2, 2, 1), True, dtype=dtype, predicted=predicted)
    agree(*drawn, "lp", 2, 1, "bilinear", 0.23)


@kernels
def test_float32_features_with_bfloat16_offsets():  # as under autocast
    agree(*tensors("pl", 2, 1, (1, 2, 1, 2), True, predicted=torch.bfloat16), "pl", 2, 1, "bilinear", 0.23)


@kernels
def test_bfloat16_positions_beyond_column_128():
    x = torch.arange(300, device=DEVICE).remainder(2).expand(1, 1, 1, 300).bfloat16()
    offset = torch.zeros(1, 8, 1, 300, device=DEVICE, dtype=torch.bfloat16)
    output = fused_sample(x, offset, None, PointSampling("lp", 2, 1, "bilinear", 0.25))
    assert output[0, 0, 0, 1:-1].tolist() == [0.25, 0.75, 0.75, 0.25] * 149 + [0.25, 0.75]


@kernels
@pytest.mark.parametrize(("value", "axis"), [(math.nan, 0), (-math.inf, 1)])
def test_positions_that_are_no_numbers_show_in_their_own_pixels(value, axis):
    x, offset, _, grad = tensors("pl", 2, 1, (1, 2, 1, 3), False)
    bad = torch.zeros(2, 6, dtype=torch.bool, device=DEVICE)
    bad[0, 0] = bad[1, 3] = bad[1, 5] = True
    clean = results(plain_sample, x, offset.masked_fill(bad, 0), None, grad, "pl", 2, 1, "bilinear", 0.25)
    offset[0, axis][bad] = value
    offset[0, 1 - axis][bad] = 0
    output, grad_x, grad_offset = results(fused_sample, x, offset, None, grad, "pl", 2, 1, "bilinear", 0.25)
    assert torch.equal(output.isnan(), bad.expand_as(output))
    assert torch.equal(grad_offset.isnan(), bad.expand_as(grad_offset))
    torch.testing.assert_close(output[..., ~bad], clean[0][..., ~bad], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_offset[..., ~bad], clean[2][..., ~bad], rtol=1e-4, atol=1e-5)
    assert grad_x.isfinite().all()


@kernels
@pytest.mark.parametrize("far", [-50.0, 3e38])
def test_clamped_positions_have_no_slope(far):
    x, offset, scope, grad = tensors("lp", 2, 1, (1, 2, 1, 2), True)
    drawn = x, torch.full_like(offset, far), torch.zeros_like(scope), grad
    output, grad_x, *others = results(fused_sample, *drawn, "lp", 2, 1, "bilinear", 0.25)
    corner = (0, 0) if far < 0 else (0, 1)
    assert torch.equal(output, x[..., corner[0], corner[1]][..., None, None].expand_as(output))
    torch.testing.assert_close(grad_x[..., corner[0], corner[1]], grad.sum((2, 3)))
    assert grad_x.count_nonzero() == 2
    assert not any(gradient.any() for gradient in others)


@kernels
def test_keeps_nothing_but_its_inputs_for_the_backward_pass():
    x, offset, scope, _ = tensors("lp", 2, 2, (1, 4, 2, 3), True)
    output = fused_sample(x.requires_grad_(), offset, scope, PointSampling("lp", 2, 2, "bilinear", 0.25))
    assert [kept.data_ptr() for kept in output.grad_fn.saved_tensors] == [t.data_ptr() for t in (x, offset, scope)]


def second_gradients(sample, x, grad, dynamic):
    """The gradient of x and the gradient of its square, with offsets, and a scope if dynamic, that depend on x."""
    leaf = x.detach().requires_grad_()
    how = PointSampling("lp", 2, 1, "bilinear", 0.23)
    output = sample(leaf, 1.7 * leaf.square(), leaf.sin() if dynamic else None, how)
    (gradient,) = torch.autograd.grad((output.square() * grad).sum(), leaf, create_graph=True)
    return [gradient.detach(), *torch.autograd.grad(gradient.square().sum(), leaf)]


@kernels
@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients_of_gradients_with_offsets_that_depend_on_x(dynamic):
    x, _, _, grad = tensors("lp", 2, 1, (1, 8, 2, 3), dynamic)
    missing = "derivative for aten::grid_sampler_2d_backward is not implemented"
    try:
        expected = second_gradients(plain_sample, x, grad, dynamic)
    except RuntimeError as error:
        if missing not in str(error):
            raise
        with pytest.raises(RuntimeError, match=missing):
            second_gradients(fused_sample, x, grad, dynamic)
        pytest.skip(f"nor does the plain path have them in PyTorch {torch.__version__}: {missing}")
    ours = second_gradients(fused_sample, x, grad, dynamic)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@kernels
def test_float64_and_empty_maps_are_not_covered():
    x, offset, scope, _ = tensors("lp", 2, 2, (1, 4, 2, 3), True)
    assert operators.covers(x, offset, scope)
    assert not operators.covers(x.double(), offset, scope)
    assert not operators.covers(x, offset.double(), scope)
    assert not operators.covers(x[:0], offset[:0], scope[:0])


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="runs no kernel")
def test_the_cpu_and_fake_tensors_take_another_path():
    module, x = DySample(4), torch.randn(1, 4, 2, 3)
    expected = compiled_sample if points_cpu.is_available() else plain_sample
    assert module.sampler(x, *module._predict_offsets(x)) is expected
    with FakeTensorMode():
        x, offset = (torch.empty(1, channels, 2, 3, device="cuda") for channels in (4, 32))
    assert x.is_cuda
    assert module.sampler(x, offset, None) is plain_sample


def module_results(module, x, sampler=None):
    """The output of a module and all gradients, sampling by the given function instead of its own choice."""
    if sampler is not None:
        module.sampler = lambda *tensors: sampler
    x = x.detach().requires_grad_()
    output = module(x)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output.detach(), *torch.autograd.grad(output, [x, *module.parameters()], grad)]


def build(style, dyscope, groups=4, channels=64):
    torch.manual_seed(0)
    module = DySample(channels, 2, style, groups, dyscope).cuda()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


@cuda_only
@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("dyscope", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_modules_agree_on_cuda(style, dyscope, last):
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(3, 64, 37, 150, generator=torch.Generator().manual_seed(1)).cuda().to(memory_format=layout)
    fused, plain = module_results(build(style, dyscope), x), module_results(build(style, dyscope), x, plain_sample)
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-3, atol=1e-3)
    for ours, expected in zip(fused[1:], plain[1:], strict=True):  # some positions round to either side of a centre
        assert (ours - expected).norm() <= 0.02 * expected.norm()


@cuda_only
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, None])
def test_autocast_changes_no_dtypes(dtype, given):
    x = torch.randn(2, 64, 19, 150, generator=torch.Generator().manual_seed(1)).cuda().to(given or dtype)
    with torch.autocast("cuda", dtype):
        fused, plain = module_results(build("lp", True), x), module_results(build("lp", True), x, plain_sample)
    for ours, expected in zip(fused, plain, strict=True):
        assert ours.dtype == expected.dtype
        assert (ours.float() - expected.float()).norm() <= 0.02 * expected.float().norm()


@cuda_only
@pytest.mark.parametrize("reach", [1.5, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeated_gradients_are_the_same_bit_for_bit(reach, dtype):
    drawn = tensors("lp", 2, 4, (2, 64, 50, 60), True, reach, dtype)
    torch.use_deterministic_algorithms(True)
    try:
        first = results(fused_sample, *drawn, "lp", 2, 4, "bilinear", 0.25)
        for _ in range(5):
            again = results(fused_sample, *drawn, "lp", 2, 4, "bilinear", 0.25)
            assert all(map(torch.equal, again, first))
    finally:
        torch.use_deterministic_algorithms(False)


@cuda_only
def test_choice_of_path_on_cuda():
    module, x = build("lp", False), torch.randn(1, 64, 4, 5).cuda()
    assert module.sampler(x, *module._predict_offsets(x)) is fused_sample
    expected = module(x)
    vmapped = torch.func.vmap(lambda image: module(image[None])[0])(x)
    torch.testing.assert_close(vmapped, expected, rtol=1e-3, atol=1e-3)
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-3)
    module, x = module.double(), x.double()
    assert module.sampler(x, *module._predict_offsets(x)) is plain_sample


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(("dtype", "is_wide"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)])
def test_kernels_compile_for_a_gpu_and_read_16_bytes_where_channels_lie_together(dtype, is_wide, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class Absent(DriverBase):
        """Stands for a device that is not there; nothing is launched."""

        @classmethod
        def is_active(cls):
            return True

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

        def get_active_torch_device(self):
            return torch.device("cpu")

        def map_python_to_cpp_type(self, kind):
            return kind

        def get_benchmarker(self):
            pytest.fail("nothing is timed here")

    assembled = {}

    class Compiled:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def compile_only(*args, **options):
                found = self.kernel.warmup(*args, grid=grid, **options)
                assembled[self.kernel.__name__] = found.asm["ptx"]

            return compile_only

    names = [f"{name}_kernel" for name in ("sum", "score", "cells", "list", "order", "features")]
    for name in names:
        monkeypatch.setattr(triton_points, name, Compiled(getattr(triton_points, name)))
    if is_wide:
        widen(monkeypatch)
    last = {"dtype": dtype, "memory_format": torch.channels_last}
    x, y, offset = (torch.empty(1, *shape, **last) for shape in ((256, 12, 16), (256, 24, 32), (32, 12, 16)))
    inputs = x, offset, None, "lp", 2, 4, "bilinear", 0.25
    triton.runtime.driver.set_active(Absent())
    try:
        triton_points.sample_offsets(*inputs)
        triton_points.sample_offsets_backward(y, *inputs)
        read = dict(assembled)
        # The rest is compiled alone: contiguous maps with a scope, and weighted points outside of which all is zero.
        raw = torch.empty(1, 8, 24, 32, dtype=dtype)
        triton_points.sample_offsets_backward(y.contiguous(), x.contiguous(), raw, raw, "pl", 2, 4, "nearest", 0.5)
        positions, weights = torch.empty(1, 4, 3, 24, 32, 2), torch.empty(1, 4, 3, 24, 32)
        triton_points.sum_points(x, positions, weights, False)
        triton_points.sum_points_backward(y, x, positions, weights, False)
        triton_points.score_points(y, x, positions, True)
    finally:
        with contextlib.suppress(RuntimeError):  # without a GPU there is none to go back to
            triton.runtime.driver.reset_active()
    assert set(read) == set(names)
    for name in ("sum_kernel", "score_kernel", "features_kernel"):
        rows = [line for line in read[name].splitlines() if "ld.global" in line and ".v4.b32" in line]
        assert rows, name
