"""Weighted point sampling against literal loops, at borders, at positions that are no numbers, and in memory."""

import pytest
import torch
from torch import Tensor

from tests.upsamplers.literal import read
from upsamplers import points, points_cpu
from upsamplers.points import sample_points, score_points

PADDINGS = pytest.mark.parametrize("padding", ["border", "zeros"])
AT_ONCE = pytest.mark.parametrize("at_once", [1, 40, 1 << 20])


@pytest.fixture(params=[False, True], ids=["", "deterministic"])
def both_algorithms(request, monkeypatch):
    """PyTorch's own gradient, and the one that is deterministic on CUDA too."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: request.param)


@pytest.fixture(params=["plain", "deterministic", "compiled"])
def all_algorithms(request, monkeypatch):
    """The same two, and compiled code."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: request.param == "deterministic")
    if request.param != "compiled":
        monkeypatch.setattr(points_cpu, "is_available", lambda: False)
    elif not points_cpu.is_available():
        pytest.skip("needs a C++ compiler")


def example():
    """Two images of 6 channels, 3 x 4; two groups with 3 points for each of 4 x 5 output pixels, some far outside.

    There are more output pixels than pixels, so that the gradient, too, is cut.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parts = draw(2, 6, 3, 4), 2 * draw(2, 2, 3, 4, 5, 2) + 2, draw(2, 2, 3, 4, 5), draw(2, 6, 4, 5)
    return [part.requires_grad_() for part in parts]


def by_loops(x, positions, weights, padding):
    g, n = positions.shape[1:3]
    images = []
    for maps, places, factors in zip(x, positions, weights, strict=True):
        groups = []
        for part, place, factor in zip(maps.chunk(g), places - 0.5, factors, strict=True):
            readings = [read(part, place[t, ..., 1], place[t, ..., 0], padding) for t in range(n)]
            groups.append(sum(factor[t] * readings[t] for t in range(n)))
        images.append(torch.cat(groups))
    return torch.stack(images)


def assert_same(found, expected, leaves):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for one, other in zip(*[torch.autograd.grad(each, leaves, along) for each in (found, expected)], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("both_algorithms")
@PADDINGS
@AT_ONCE
def test_sums_and_gradients_are_those_of_loops_however_the_work_is_cut(monkeypatch, padding, at_once):
    monkeypatch.setattr(points, "_CHUNK_ELEMENTS_ON_CPU", at_once)
    x, positions, weights, _ = example()
    found = sample_points(x, positions, weights, padding)
    assert_same(found, by_loops(x, positions, weights, padding), [x, positions, weights])


@PADDINGS
def test_weights_may_be_common_to_all_groups(padding):
    x, positions, weights, _ = example()
    common = weights[:, :1]
    expected = by_loops(x, positions, common.expand(-1, 2, -1, -1, -1), padding)
    assert_same(sample_points(x, positions, common, padding), expected, [x, positions, weights])


@pytest.mark.usefixtures("both_algorithms")
@PADDINGS
def test_one_point_needs_no_weight(padding):
    x, positions, weights, _ = example()
    expected = by_loops(x, positions[:, :, :1], torch.ones_like(weights[:, :, :1]), padding)
    assert_same(sample_points(x, positions[:, :, :1], None, padding), expected, [x, positions])


@pytest.mark.usefixtures("both_algorithms")
@PADDINGS
@AT_ONCE
def test_scores_are_inner_products_with_what_is_read(monkeypatch, padding, at_once):
    monkeypatch.setattr(points, "_CHUNK_ELEMENTS_ON_CPU", at_once)
    key, positions, weights, query = example()
    one = torch.ones_like(weights[:, :, :1])
    readings = torch.stack([by_loops(key, positions[:, :, t : t + 1], one, padding) for t in range(3)], dim=2)
    expected = (readings * query[:, :, None]).unflatten(1, (2, 3)).sum(2)
    assert_same(score_points(query, key, positions, padding), expected, [key, positions, query])


@pytest.mark.usefixtures("all_algorithms")
@PADDINGS
def test_positions_that_are_no_numbers_show_where_they_are_and_harm_nothing_else(padding):
    x, positions, weights, query = (part.detach().float() for part in example())
    positions[0, 1, 2, 1, 3, 0] = torch.nan
    positions[1, 0, 0, 0, 0, 1] = torch.inf
    positions[1, 1, 1, 0, 1] = -1e30
    positions.requires_grad_()
    found = sample_points(x, positions, weights, padding)
    wrong = torch.zeros_like(found, dtype=torch.bool)
    wrong[0, 3:, 1, 3] = wrong[1, :3, 0, 0] = True
    assert torch.equal(found.isnan(), wrong)
    scores = score_points(query, x, positions, padding)
    assert scores.isnan().nonzero().tolist() == [[0, 1, 2, 1, 3], [1, 0, 0, 0, 0]]
    (gradient,) = torch.autograd.grad(found.sum(), positions)
    assert gradient.isfinite().sum() == gradient.numel() - 2
    assert sample_points(x, positions[:, :, 2:], None, padding).isnan().sum() == 3


@pytest.mark.usefixtures("all_algorithms")
def test_positions_are_float32_whatever_autocast_and_features_say():
    x = torch.arange(300.0).bfloat16().reshape(1, 1, 1, 300)
    positions = torch.tensor([200.25, 0.5]).reshape(1, 1, 1, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample_points(x, positions, weights, "zeros"), sample_points(x, positions, None, "zeros")
        scores = score_points(torch.ones(1, 1, 1, 1), x.float(), positions, "zeros")
    assert [each.dtype for each in (*found, scores)] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert scores.item() == pytest.approx(199.75, abs=1e-4)
    assert all(each.item() == 200 for each in found)  # 199.75 in bfloat16


@pytest.mark.usefixtures("both_algorithms")
@PADDINGS
def test_empty_batches_have_gradients(padding):
    x, positions, weights, query = (part.detach()[:0].requires_grad_() for part in example())
    assert sample_points(x, positions, weights, padding).shape == (0, 6, 4, 5)
    total = sample_points(x, positions, weights, padding).sum() + score_points(query, x, positions, padding).sum()
    total.backward()
    assert all(part.grad.shape == part.shape for part in (x, positions, weights, query))


def test_layouts_do_not_matter():
    x, positions, weights, _ = (part.detach() for part in example())
    expected = sample_points(x, positions, weights, "zeros")
    last = x.to(memory_format=torch.channels_last)
    strided = positions.movedim(-1, 3).contiguous().movedim(3, -1)
    assert torch.equal(sample_points(last, strided, weights, "zeros"), expected)


def kept(function) -> int:
    """Numbers in all storages that autograd keeps."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storages.values())


@pytest.mark.usefixtures("all_algorithms")
def test_what_is_read_is_not_kept_for_the_gradient():
    x, query = torch.randn(1, 64, 8, 8, requires_grad=True), torch.randn(1, 64, 16, 16, requires_grad=True)
    positions, weights = torch.rand(1, 2, 9, 16, 16, 2, requires_grad=True), torch.rand(1, 2, 9, 16, 16)
    unit = 2  # numbers: the size of a pixel
    arguments = sum(part.numel() for part in (x, positions, weights)) + unit
    assert kept(lambda: sample_points(x, positions, weights.requires_grad_(), "zeros")) <= arguments
    arguments = sum(part.numel() for part in (x, positions, query)) + unit
    assert kept(lambda: score_points(query, x, positions, "zeros")) <= arguments
