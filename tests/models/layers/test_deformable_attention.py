"""Deformable attention against loops over points and pixels, and what it keeps in memory."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.depthformer.hahi import pixel_centres
from models.layers import deformable_attention
from models.layers.deformable_attention import DeformableAttention, weighted_points
from models.layers.position import sine_position
from upsamplers import points

SIZES = [(4, 5), (2, 3), (1, 2)]
CPU = torch.device("cpu")


def example(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Values, reference points, offsets, weights: 2 images, 7 queries, 2 heads of 3 channels, 3 levels, 2 points."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    pixels = sum(height * width for height, width in SIZES)
    parts = [draw(2, pixels, 2, 3), draw(7, 2).sigmoid(), 2 * draw(2, 7, 2, 3, 2, 2), draw(2, 7, 2, 3, 2)]
    return [part.requires_grad_() for part in parts]


def by_loops(values: Tensor, reference: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Every pixel within a step of a point counts by its distance in rows and columns."""
    B, N, heads, levels, points, _ = offsets.shape
    result = []
    for b, n, head in [(b, n, head) for b in range(B) for n in range(N) for head in range(heads)]:
        total = values.new_zeros(values.shape[-1])
        start = 0
        for level, (height, width) in enumerate(SIZES[:levels]):
            for point in range(points):
                column = reference[n, 0] * width + offsets[b, n, head, level, point, 0] - 0.5
                row = reference[n, 1] * height + offsets[b, n, head, level, point, 1] - 0.5
                for y in range(height):
                    for x in range(width):
                        share = (1 - (row - y).abs()).clamp(min=0) * (1 - (column - x).abs()).clamp(min=0)
                        pixel = values[b, start + y * width + x, head]
                        total = total + weights[b, n, head, level, point] * share * pixel
            start += height * width
        result.append(total)
    return torch.stack(result).view(B, N, heads, -1)


@pytest.mark.parametrize("at_once", [1, 20, 90, 1 << 20])
def test_values_and_gradients_are_those_of_loops_however_the_work_is_cut(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "_CHUNK_ELEMENTS_ON_CPU", at_once)
    inputs = example()
    values, reference, offsets, weights = inputs
    expected = by_loops(*inputs)
    found = weighted_points(values, SIZES, reference, offsets, weights)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(weighted_points(values, SIZES, reference, offsets, weights), expected)
    direction = torch.randn(found.shape, dtype=found.dtype)
    for own, other in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_gradients_are_those_of_finite_differences() -> None:
    values, reference, offsets, weights = example()
    torch.autograd.gradcheck(
        lambda values, offsets, weights: weighted_points(values, SIZES, reference.detach(), offsets, weights),
        (values, offsets, weights),
        fast_mode=True,
    )


def kept_for_backward(queries: int, count: int) -> int:
    """Numbers that autograd keeps, for one head of 32 channels on one level."""
    torch.manual_seed(0)
    values, reference = torch.randn(1, 64, 1, 32, requires_grad=True), torch.rand(queries, 2)
    offsets = torch.randn(1, queries, 1, 1, count, 2, requires_grad=True)
    weights = torch.rand(1, queries, 1, 1, count, requires_grad=True)
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weighted_points(values, [(8, 8)], reference, offsets, weights)
    return sum(storages.values())


def test_what_is_read_is_not_kept_for_the_gradient() -> None:
    queries, points = 1000, 8
    # Places (2 numbers) and weights of all points, but not the 32 channels that are read there.
    assert kept_for_backward(queries, points) < queries * points * 32 / 4


def test_a_layer_starts_looking_one_step_a_point_in_its_heads_direction() -> None:
    layer = DeformableAttention(16, heads=8, levels=2, points=3, dropout=0.0)
    assert layer.offsets.weight.abs().max() == layer.weights.weight.abs().max() == 0
    offsets = layer.offsets.bias.view(8, 2, 3, 2)
    for head in range(8):
        angle = 2 * math.pi * head / 8
        x, y = math.cos(angle), math.sin(angle)
        reach = max(abs(x), abs(y))
        for point in range(3):
            expected = torch.tensor([x / reach, y / reach]) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], expected.expand(2, 2))


def test_the_layer_adds_to_its_tokens_what_its_query_reads() -> None:
    torch.manual_seed(0)
    layer = DeformableAttention(6, heads=2, levels=3, points=2, dropout=0.0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    tokens, position, source = torch.randn(2, 7, 6), torch.randn(7, 6), torch.randn(2, 28, 6)
    reference = torch.rand(7, 2)
    query = tokens + position
    weights = layer.weights(query).view(2, 7, 2, 6).softmax(-1).view(2, 7, 2, 3, 2)
    offsets = layer.offsets(query).view(2, 7, 2, 3, 2, 2)
    read = by_loops(layer.value(source).view(2, 28, 2, 3), reference, offsets, weights)
    expected = tokens + layer.project(read.reshape(2, 7, 6))
    torch.testing.assert_close(layer(tokens, position, source, reference, SIZES), expected, rtol=1e-4, atol=1e-4)


def test_in_half_precision_places_are_still_exact() -> None:
    values, reference, offsets, weights = (part.detach().float() for part in example())
    expected = weighted_points(values, SIZES, reference, offsets, weights)
    halves = weighted_points(values.bfloat16(), SIZES, reference, offsets, weights)
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(halves.float(), expected, rtol=0.02, atol=0.05)


def test_a_query_at_a_pixels_centre_reads_that_pixel() -> None:
    centres = pixel_centres((4, 5), CPU)
    values = torch.randn(1, 20, 1, 3)
    found = weighted_points(values, [(4, 5)], centres, torch.zeros(1, 20, 1, 1, 1, 2), torch.ones(1, 20, 1, 1, 1))
    torch.testing.assert_close(found, values)


def test_places_that_are_no_numbers_show_in_the_result_and_harm_nothing_else() -> None:
    values, reference, offsets, weights = (part.detach().float() for part in example())
    offsets[0, 3, 1, 0, 0, 0] = math.nan
    offsets[1, 2, 0, 0, 0, 1] = math.inf
    offsets[1, 3, 0, 0, 0, 1] = 1e30
    offsets.requires_grad_()
    found = weighted_points(values, SIZES, reference, offsets, weights)
    assert found[0, 3, 1].isnan().all()
    assert found[1, 3].isfinite().all()
    found.nan_to_num().sum().backward()
    assert found[0, :3].isfinite().all()


def test_positions_are_sines_and_cosines_of_rows_then_columns_counted_from_one() -> None:
    position = sine_position((3, 4), 16, CPU).view(3, 4, 16)
    for row, column in [(0, 0), (2, 1), (1, 3)]:
        for axis, count in ((0, row + 1), (8, column + 1)):
            for pair in range(4):
                angle = count / 10_000 ** (2 * pair / 8)
                expected = torch.tensor([math.sin(angle), math.cos(angle)])
                torch.testing.assert_close(position[row, column, axis + 2 * pair : axis + 2 * pair + 2], expected)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 23])
def test_without_a_gradient_tokens_attend_part_by_part(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16, heads=2, levels=3, points=2, dropout=0.0)
    nn.init.normal_(attention.offsets.weight)
    nn.init.normal_(attention.weights.weight)
    pixels = sum(height * width for height, width in SIZES)
    inputs = torch.randn(2, 9, 16), torch.randn(9, 16), torch.randn(2, pixels, 16), torch.rand(9, 2)
    expected = attention(*inputs, SIZES)
    monkeypatch.setattr(deformable_attention, "_OFFSET_ELEMENTS_PER_CHUNK", at_once)
    with torch.no_grad():
        torch.testing.assert_close(attention(*inputs, SIZES), expected.detach())
