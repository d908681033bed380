"""Compiled sums of windows against PyTorch's operators in float64."""

import functools

import pytest
import torch

from upsamplers import build_upsampler, maps_cpu, windows_cpu
from upsamplers.reassemble import plain_reassemble, plain_similarity, reassemble, similarity

pytestmark = pytest.mark.skipif(not windows_cpu.is_available(), reason="needs a C++ compiler")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
# Images, channels, groups, kernel, scale, rows and columns, dilation, padding.
CASES = [
    (2, 8, 2, 5, 2, 5, 7, 1, "zeros"),
    (1, 96, 1, 3, 2, 9, 40, 1, "zeros"),
    (1, 40, 2, 3, 1, 9, 33, 2, "replicate"),
    (1, 200, 1, 5, 2, 17, 5, 1, "zeros"),
    (1, 3, 1, 7, 3, 2, 3, 1, "replicate"),
    (1, 16, 1, 1, 4, 3, 3, 1, "zeros"),
]


def example(B, C, G, K, s, H, W, dtype=torch.float32, layout=torch.contiguous_format):
    """x, kernels, and something of the output's size, as leaves."""
    generator = torch.Generator().manual_seed(0)
    shapes = (B, C, H, W), (B, G, K * K, s * s, H, W), (B, C, s * H, s * W)
    x, kernels, y = (torch.randn(shape, generator=generator) for shape in shapes)
    x, y = (part.to(dtype).to(memory_format=layout) for part in (x, y))
    return [part.requires_grad_() for part in (x, kernels, y)]


def results(function, *leaves):
    """The result and all gradients for a certain gradient of the result, which has its layout."""
    found = function(*leaves)
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = torch.empty_like(found).copy_(along)
    return [found.detach(), *torch.autograd.grad(found, leaves, along)]


def agree(function, plain, leaves, tolerance=2e-6):
    """The largest error is a small part of the largest value."""
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    for found, expected in zip(results(function, *leaves), results(plain, *exact), strict=True):
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@LAYOUTS
@pytest.mark.parametrize("case", CASES)
def test_sums_and_their_gradients(case, layout):
    *shape, dilation, padding = case
    x, kernels, _ = example(*shape, layout=layout)
    assert windows_cpu.covers(x, kernels)
    how = {"dilation": dilation, "padding": padding}
    found, grad_x, _ = results(functools.partial(reassemble, **how), x, kernels)
    if padding == "zeros":
        assert found.is_contiguous(memory_format=layout)
        assert grad_x.stride() == x.stride()
    agree(functools.partial(reassemble, **how), functools.partial(plain_reassemble, **how), [x, kernels])


@LAYOUTS
@pytest.mark.parametrize("shape", [(2, 8, 1, 5, 2, 5, 7), (1, 70, 1, 3, 1, 9, 40)])
def test_similarities_and_their_gradients(shape, layout):
    x, _, y = example(*shape, layout=layout)
    agree(*(functools.partial(f, kernel=shape[3]) for f in (similarity, plain_similarity)), [y, x])


@LAYOUTS
@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_results_alone(dtype, precision, layout):
    x, kernels, y = example(1, 40, 1, 5, 2, 4, 9, dtype=dtype, layout=layout)
    agree(reassemble, plain_reassemble, [x, kernels], 2 * precision)
    agree(lambda *parts: similarity(*parts, 5), lambda *parts: plain_similarity(*parts, 5), [y, x], 2 * precision)
    found, exact = reassemble(x, kernels), plain_reassemble(x.double(), kernels.double())
    assert found.dtype == dtype
    assert ((found - exact).abs() <= 1.01 * precision * exact.abs() + 1e-5).all()


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(maps_cpu, "_WORTH_A_THREAD", 1)
    x, kernels, _ = example(2, 140, 1, 3, 2, 19, 5)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(results(reassemble, x, kernels))
    assert all(torch.equal(one, other) for other in found[1:] for one, other in zip(found[0], other, strict=True))


def test_what_is_not_finite_reaches_exactly_its_windows():
    x, kernels, _ = (part.detach() for part in example(1, 20, 1, 3, 2, 8, 40))
    x[0, 3, 4, 17], kernels[0, 0, 2, 1, 6, 30] = torch.nan, torch.inf
    found, expected = reassemble(x, kernels), plain_reassemble(x, kernels)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert not found.isfinite().all()


def test_gradients_of_gradients_are_those_of_pytorch():
    def second(function, x, kernels):
        gradients = torch.autograd.grad(function(x, kernels).pow(3).sum(), [x, kernels], create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), [x, kernels])

    x, kernels, _ = example(1, 4, 2, 3, 2, 4, 5)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, kernels)]
    for found, expected in zip(second(reassemble, x, kernels), second(plain_reassemble, *exact), strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_fake_tensors_get_the_shapes_and_layouts_of_the_operators():
    x, kernels, y = example(*CASES[0][:7], layout=torch.channels_last)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(windows_cpu._sum, (x, kernels, 1, 0), test_utils=checks)
    torch.library.opcheck(windows_cpu._score, (y, x, 2, 5, 1, 0), test_utils=checks)
    torch.library.opcheck(windows_cpu._spread, (y, kernels, 1, 0), test_utils=checks)


@pytest.mark.parametrize("name", ["carafe", "sapa", "freqfusion", "resfu"])
def test_upsamplers_give_the_same_by_either_way(monkeypatch, name):
    torch.manual_seed(0)
    upsampler = build_upsampler(name, 16)
    x, guide = torch.randn(1, 16, 5, 6), torch.randn(1, 16, 10, 12)
    found = upsampler(x, guide)
    monkeypatch.setattr(windows_cpu, "is_available", lambda: False)
    torch.testing.assert_close(upsampler(x, guide), found)
