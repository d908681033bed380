"""Where windows lie, and their weights."""

import pytest
import torch

from inference.windows import WindowConfig, starts, windows_of

CPU = torch.device("cpu")


def test_windows_start_a_stride_apart_and_the_last_one_ends_at_the_edge():
    assert starts(100, 40, 0.25) == [0, 30, 60]
    assert starts(101, 40, 0.25) == [0, 30, 60, 61]
    assert starts(40, 40, 0.25) == starts(7, 40, 0.25) == [0]
    assert starts(40, 20, 0.0) == [0, 19, 20]  # at least one pixel in common


@pytest.mark.parametrize("blend", ["linear", "mean"])
@pytest.mark.parametrize(("length", "original"), [(100, 100), (101, 101), (90, 207), (90, 41), (30, 30), (97, 96)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.8])
def test_weights_sum_to_one_at_every_pixel(length, original, blend, overlap):
    config = WindowConfig(size=(32, 999), overlap=overlap, blend=blend)
    total = torch.zeros(original, dtype=torch.float64)
    for window in windows_of(length, original, config, 0, CPU):
        assert window.weights.min() > 0
        total[window.first : window.end] += window.weights
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_linear_weights_of_windows_that_overlap_by_half_are_tents():
    first, second, third = windows_of(64, 64, WindowConfig(size=(32, 32), overlap=0.5), 0, CPU)
    rising = (torch.arange(16) + 0.5) / 16
    assert torch.equal(first.weights, torch.cat([torch.ones(16), 1 - rising]))
    torch.testing.assert_close(second.weights, torch.cat([rising, 1 - rising]))
    torch.testing.assert_close(third.weights, torch.cat([rising, torch.ones(16)]))


@pytest.mark.parametrize("original", [207, 41, 91])
def test_resized_windows_are_windows_of_the_resized_image(original):
    values = torch.rand(1, 1, 90, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(values, original, mode="linear")
    for window in windows_of(90, original, WindowConfig(size=(32, 32)), 0, CPU):
        part = window.resize(values[:, :, window.start : window.stop], dim=2)
        torch.testing.assert_close(part, whole[:, :, window.first : window.end])
