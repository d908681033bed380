"""Kernel-weighted sums and similarities against literal loops, at borders, and in memory."""

import itertools

import pytest
import torch

from upsamplers import build_upsampler
from upsamplers.base import shuffle, unshuffle
from upsamplers.reassemble import plain_reassemble, plain_similarity, reassemble, similarity


def literal_reassembly(x, kernels, scale, groups):
    """x [C, H, W], kernels [G·K², sH, sW] -> [C, sH, sW], number by number."""
    C, H, W = x.shape
    taps = kernels.shape[0] // groups
    K = round(taps**0.5)
    output = torch.zeros(C, scale * H, scale * W)
    for c, row, column in itertools.product(range(C), range(scale * H), range(scale * W)):
        for dy, dx in itertools.product(range(K), range(K)):
            h, w = row // scale + dy - K // 2, column // scale + dx - K // 2
            if 0 <= h < H and 0 <= w < W:
                output[c, row, column] += kernels[c * groups // C * taps + dy * K + dx, row, column] * x[c, h, w]
    return output


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize(("kernel", "scale", "groups"), [(3, 2, 1), (5, 2, 2), (3, 3, 4), (1, 1, 1)])
def test_reassembly_is_that_of_a_literal_loop(monkeypatch, kernel, scale, groups, at_once):
    monkeypatch.setattr("upsamplers.reassemble._CHUNK_ELEMENTS", at_once)
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 4)
    kernels = torch.randn(2, groups * kernel**2, scale * 3, scale * 4)
    expected = torch.stack([literal_reassembly(*pair, scale, groups) for pair in zip(x, kernels, strict=True)])
    layout = unshuffle(kernels, scale).reshape(2, groups, kernel**2, scale**2, 3, 4)
    for function in (reassemble, plain_reassemble):  # perhaps compiled, and in PyTorch's operators
        torch.testing.assert_close(function(x, layout), expected)


def literal_filter(x, kernels, dilation, padding):
    """x [C, H, W] filtered at its own resolution by kernels [K², H, W], number by number."""
    C, H, W = x.shape
    K = round(kernels.shape[0] ** 0.5)
    output = torch.zeros(C, H, W, dtype=x.dtype)
    for row, column, dy, dx in itertools.product(range(H), range(W), range(K), range(K)):
        h, w = row + (dy - K // 2) * dilation, column + (dx - K // 2) * dilation
        if padding == "replicate":
            h, w = min(max(h, 0), H - 1), min(max(w, 0), W - 1)
        if 0 <= h < H and 0 <= w < W:
            output[:, row, column] += kernels[dy * K + dx, row, column] * x[:, h, w]
    return output


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (5, 1), (3, 5)])
def test_filters_have_a_dilation_and_a_padding(kernel, dilation, padding):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, kernel**2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    found = reassemble(x, kernels[:, None, :, None], dilation, padding)
    pairs = zip(x, kernels, strict=True)
    expected = torch.stack([literal_filter(*pair, dilation, padding) for pair in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    along = torch.randn_like(found)
    gradients = [torch.autograd.grad(each, [x, kernels], along) for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert reassemble(x[:0], kernels[:0, None, :, None], dilation, padding).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_may_be_summed_apart(monkeypatch, groups):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, groups, 9, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    whole = reassemble(x, kernels)
    along = torch.randn_like(whole)
    gradients = torch.autograd.grad(whole, [x, kernels], along)
    monkeypatch.setattr(
        "upsamplers.reassemble._CHUNK_ELEMENTS", 3 * 2 * groups * 4 * 5 * 6
    )  # three channels, then what is left
    parts = reassemble(x, kernels)
    assert torch.equal(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, [x, kernels], along), gradients)


@pytest.mark.parametrize("function", [similarity, plain_similarity])
def test_similarity_is_that_of_a_literal_loop_with_zeros_outside(function):
    torch.manual_seed(0)
    query, key = torch.randn(1, 3, 6, 8), torch.randn(1, 3, 3, 4)
    scores = shuffle(function(query, key, 3).reshape(1, 9, 4, 3, 4), 2)
    for row, column, dy, dx in itertools.product(range(6), range(8), range(3), range(3)):
        h, w = row // 2 + dy - 1, column // 2 + dx - 1
        inside = 0 <= h < 3 and 0 <= w < 4
        expected = query[0, :, row, column] @ key[0, :, h, w] if inside else torch.tensor(0.0)
        torch.testing.assert_close(scores[0, dy * 3 + dx, row, column], expected)


@pytest.mark.parametrize(("kernel", "edge", "corner"), [(5, 0.60, 0.36), (3, 2 / 3, 4 / 9)])
def test_uniform_kernels_lose_energy_at_the_border(kernel, edge, corner):
    uniform = torch.full((1, 1, kernel**2, 4, 7, 7), 1 / kernel**2)
    output = reassemble(torch.ones(1, 1, 7, 7), uniform)[0, 0]
    values = [output[6, 6], output[0, 6], output[7, 13], output[0, 0], output[13, 1]]
    torch.testing.assert_close(torch.stack(values), torch.tensor([1.0, edge, edge, corner, corner]))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_subpixel_layout_is_that_of_pixel_shuffle(scale):
    y = torch.randn(2, 3 * scale**2, 4, 5)
    shuffled = shuffle(y.reshape(2, 3, scale**2, 4, 5), scale)
    assert torch.equal(shuffled, torch.nn.functional.pixel_shuffle(y, scale))
    assert torch.equal(unshuffle(shuffled, scale).flatten(1, 2), y)


def test_half_precision_is_summed_in_float32():
    x = torch.ones(1, 1, 9, 9, dtype=torch.bfloat16)
    kernels = torch.full((1, 1, 25, 4, 9, 9), 1 / 25)
    output = reassemble(x, kernels)
    assert output.dtype == torch.bfloat16
    assert output[0, 0, 9, 9] == 1  # 25 terms rounded one by one would miss it


# Outputs that may be kept beside inputs, parameters and kernels or points: padded and compressed maps, features of the
# layers. Nine points or 25 taps would take 9 or 25 outputs.
OUTPUTS = {"carafe": 2, "fade": 2, "sapa": 2, "a2u": 2, "sapa-d": 2, "lda_aqu": 2, "fade-lite": 3, "fam": 3}
OUTPUTS |= {"freqfusion": 6, "resfu": 8}


@pytest.mark.parametrize("name", OUTPUTS)
def test_memory_kept_for_backward_is_bounded(name):
    C, H, W = 256, 16, 16
    upsampler = build_upsampler(name, C)
    x, guide = torch.randn(1, C, H, W, requires_grad=True), torch.randn(1, C, 2 * H, 2 * W, requires_grad=True)
    known = {tensor.untyped_storage().data_ptr() for tensor in (x, guide, *upsampler.parameters())}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = upsampler(x, guide)
    taps = {"a2u": 9, "sapa-d": 4 * 9 * 5, "lda_aqu": 2 * 9 * 3}.get(name, 25)  # with points: rows, columns, weights
    kernels = taps * 4 * H * W
    assert sum(kept.values()) - kernels < OUTPUTS[name] * C * 4 * H * W
    output.sum().backward()
