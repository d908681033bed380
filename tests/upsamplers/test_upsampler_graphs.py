"""Compiled and exported upsamplers, at sizes other than those they were traced with."""

import pytest
import torch

from tests.conftest import some
from upsamplers import NAMES, build_upsampler

SMALL = {"carafe": {"kernel": 3}, "fade": {"kernel": 3, "embedding": 8}, "sapa": {"kernel": 3, "embedding": 8}}
SMALL |= {"sapa-d": {"points": 2, "embedding": 4}, "fade-lite": {"kernel": 3}, "resfu": {"mid_channels": 16}}


# Tracing takes seconds. One of each kind is traced in every run of the suite, the others in `make test-slow`.


def build(name):
    torch.manual_seed(0)
    options = {"name": name, **SMALL.get(name, {})}
    return build_upsampler(options, 32)


def inputs(batch, height, width):
    return torch.randn(batch, 32, height, width), torch.randn(batch, 32, 2 * height, 2 * width)


def agree(compiled, upsampler):
    """Results and gradients at two sizes, with guides of odd height."""
    for shape in ((2, 6, 7), (3, 9, 5)):
        x, guide = inputs(*shape)
        guide = guide[:, :, :-1]
        x.requires_grad_()
        results = [module(x, guide) for module in (compiled, upsampler)]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            *[torch.autograd.grad(y.square().sum(), x)[0] for y in results], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", some(NAMES, "carafe", "fade", "dysample-s+"))
def test_one_graph_serves_all_sizes(name):
    torch.compiler.reset()
    upsampler = build(name).eval()
    compiled = torch.compile(upsampler, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        compiled(*inputs(2, 6, 7))
        other = inputs(3, 9, 5)
        with torch.compiler.set_stance("fail_on_recompile"):
            torch.testing.assert_close(compiled(*other), upsampler(*other))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_traced_backward_agrees(name):
    torch.compiler.reset()
    upsampler = build(name).eval()
    agree(torch.compile(upsampler, backend="aot_eager", fullgraph=True, dynamic=True), upsampler)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dysample+", "carafe"])
def test_inductor_agrees(name):
    torch.compiler.reset()
    upsampler = build(name).eval()
    agree(torch.compile(upsampler, fullgraph=True, dynamic=True), upsampler)


@pytest.mark.parametrize("name", some(NAMES, "carafe", "dysample+", "sapa-d"))
def test_exported_program_takes_other_sizes(name):
    upsampler = build(name).eval()
    B, H, W = (torch.export.Dim(letter) for letter in "BHW")
    shapes = ({0: B, 2: H, 3: W}, {0: B, 2: 2 * H, 3: 2 * W})
    arguments = 2 if upsampler.uses_guide else 1
    program = torch.export.export(upsampler, inputs(2, 6, 7)[:arguments], dynamic_shapes=shapes[:arguments])
    other = inputs(3, 9, 5)[:arguments]
    torch.testing.assert_close(program.module()(*other), upsampler(*other))
