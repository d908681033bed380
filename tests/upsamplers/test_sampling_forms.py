"""The two forms in which points are read: PyTorch's `grid_sample`, and gathers for exports."""

import pytest
import torch

from upsamplers import NAMES, build_upsampler
from upsamplers.sampling import FAR, gather_points, read_points, sampling_form


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6)])
def test_gathers_read_what_grid_sample_reads_within_and_outside_the_map(size, padding):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *size, generator=generator)
    grid = 2.5 * torch.rand(2, 40, 9, 2, generator=generator) - 1.25
    grid[:, 0], grid[:, 1] = FAR, -1e30
    grid[:, 2], grid[:, 3] = -1, 1  # the edges of the map
    grid[:, 4] = torch.tensor([1 / size[1] - 1, 1 / size[0] - 1])  # the centre of the first pixel
    torch.testing.assert_close(gather_points(maps, grid, padding), read_points(maps, grid, padding))


def test_gathers_survive_positions_that_are_no_numbers():
    grid = torch.tensor([float("nan"), float("inf"), -float("inf")])[None, :, None, None].expand(-1, -1, 1, 2)
    values = gather_points(torch.ones(1, 1, 4, 4), grid, "border")[0, 0, :, 0]
    assert values[0].isnan()
    assert values[1:].tolist() == [1, 1]


def test_the_form_lasts_as_long_as_its_context():
    maps, grid = torch.randn(1, 1, 4, 4), torch.rand(1, 3, 3, 2)
    with pytest.raises(KeyError), sampling_form("gather"):
        raise KeyError
    graph = torch.export.export(_Reader(), (maps, grid)).graph
    assert any("grid_sampler" in str(node.target) for node in graph.nodes)
    with sampling_form("gather"):
        graph = torch.export.export(_Reader(), (maps, grid)).graph
    assert not any("grid_sampler" in str(node.target) for node in graph.nodes)


class _Reader(torch.nn.Module):
    def forward(self, maps, grid):
        return read_points(maps, grid, "border")


@pytest.mark.parametrize("name", NAMES)
def test_an_upsampler_gives_the_same_in_both_forms(name):
    torch.manual_seed(0)
    upsampler = build_upsampler(name, 32).eval()
    x, guide = torch.randn(2, 32, 5, 7), torch.randn(2, 32, 10, 14)
    with torch.no_grad():
        wanted = upsampler(x, guide)
        with sampling_form("gather"):
            torch.testing.assert_close(upsampler(x, guide), wanted, rtol=1e-4, atol=1e-5)
