"""The operators on a CPU: registered as PyTorch asks, kept by torch.compile, left out of exports, under torch.func."""

import pytest
import torch

from upsamplers import DySample, operators, points_cpu
from upsamplers.sampling import sampling_form

compiles = pytest.mark.skipif(not points_cpu.is_available(), reason="needs a C++ compiler")
LAYOUTS = [torch.contiguous_format, torch.channels_last]
HOW = ("lp", 2, 2, "bilinear", 0.25)


def inputs(layout=torch.contiguous_format):
    """For each operator that a CPU has, or that needs no gradient, its inputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    x, y = (draw(2, 4, *size).to(memory_format=layout) for size in ((2, 3), (4, 5)))
    positions, weights, offset, scope = 2 * draw(2, 2, 3, 4, 5, 2) + 1, draw(2, 2, 3, 4, 5), *draw(2, 2, 16, 2, 3)
    return {
        "sum_points": (x, positions, weights, True),
        "score_points": (y, x, positions, False),
        "sample_offsets": (x, offset, scope, *HOW),
        "sum_points_backward": (y, x, positions, weights, False),
        "score_points_backward": (weights, y, x, positions, True),
    }


@compiles
@pytest.mark.parametrize("name", list(inputs()))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_are_registered_as_pytorch_asks(name, layout):
    torch.library.opcheck(getattr(torch.ops.denseup, name).default, inputs(layout)[name])


@compiles
@pytest.mark.parametrize("name", [name for name in inputs() if "points" in name])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_kernels_operators_give_the_same_in_the_same_layout(name, layout, monkeypatch):
    call = getattr(torch.ops.denseup, name)
    found = call(*inputs(layout)[name])
    monkeypatch.setattr(points_cpu, "is_available", lambda: False)
    plain = call(*inputs(layout)[name])
    torch.testing.assert_close(plain, found, check_stride=True, rtol=1e-4, atol=1e-5)


def nodes(graph):
    return [str(node.target) for node in graph.nodes if "denseup" in str(node.target)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_dysample_keeps_its_kernel_and_its_results(layout):
    torch.compiler.reset()
    torch.manual_seed(0)
    module, graphs = DySample(8, dyscope=True), []
    x = torch.randn(2, 8, 3, 4).to(memory_format=layout).requires_grad_()

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(module, backend=backend, fullgraph=True)
    results = [[output := run(x), *torch.autograd.grad(output.square().sum(), x)] for run in (compiled, module)]
    torch.testing.assert_close(*results)
    (graph,) = graphs
    found = [target for part in graph.modules() if hasattr(part, "graph") for target in nodes(part.graph)]
    assert any("sum_points" in target for target in found)


def test_exports_have_our_operators_only_if_asked():
    module, x = DySample(8), torch.randn(1, 8, 3, 4)
    assert nodes(torch.export.export(module, (x,)).graph) == []
    with sampling_form("operators"):
        program = torch.export.export(module, (x,))
    assert nodes(program.graph) == ["denseup.sum_points.default"]
    torch.testing.assert_close(program.module()(x), module(x))


def test_transforms_of_torch_func_give_what_loops_give():
    torch.manual_seed(0)
    module, images = DySample(8, dyscope=True), torch.randn(3, 8, 2, 3)

    def one(image):
        return module(image[None])[0]

    def loss(image):
        return one(image).square().sum()

    torch.testing.assert_close(torch.func.vmap(one)(images), module(images))
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf).square().sum(), leaf)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(images), expected)


def test_no_kernels_for_other_devices():
    x, offset = (torch.empty(1, channels, 2, 3, device="meta") for channels in (4, 32))
    assert not operators.covers(x, offset)
