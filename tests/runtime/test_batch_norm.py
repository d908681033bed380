"""Batch normalisation of two processes against PyTorch's of one that has all images."""

import pytest
import torch
from torch import nn

from runtime.distributed import GlooBatchNorm2d
from tests.models.processes import in_two_processes

SHARES = [[0, 1, 2], [3]]  # the images of each process


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_two_processes_with_unequal_shares_equal_one(affine, offset, layout, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64) + offset
    along = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    whole = nn.BatchNorm2d(3, affine=affine).double()
    halves = [GlooBatchNorm2d(3, affine=affine) for _ in SHARES]
    if affine:
        values = torch.tensor([0.5, 1.0, 2.0])
        for norm in (whole, *halves):
            norm.weight.data.copy_(values)
            norm.bias.data.copy_(-values)

    def learn(norm, x, gradient):
        x = x.clone(memory_format=layout).requires_grad_()
        y = norm(x)
        y.backward(gradient)
        return y, x.grad, *([norm.weight.grad, norm.bias.grad] if affine else [])

    y, of_x, *of_parameters = learn(whole, images, along)
    parts = in_two_processes(
        monkeypatch, lambda rank: learn(halves[rank], images[SHARES[rank]].float(), along[SHARES[rank]].float())
    )
    near = {"rtol": 1e-4, "atol": 2e-4 if offset else 1e-5}  # float32 holds 1000 to 6e-5
    torch.testing.assert_close(torch.cat([part[0] for part in parts]).double(), y, **near)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]).double(), of_x, **near)
    for one, two, expected in zip(*(part[2:] for part in parts), of_parameters, strict=True):
        torch.testing.assert_close((one + two).double(), expected, rtol=1e-4, atol=1e-3 if offset else 1e-5)
    for half in halves:
        torch.testing.assert_close(half.running_mean.double(), whole.running_mean)
        torch.testing.assert_close(half.running_var.double(), whole.running_var, rtol=1e-4, atol=0)


def test_bfloat16_stays_bfloat16(monkeypatch):
    norms = [GlooBatchNorm2d(2) for _ in range(2)]
    x = torch.randn(2, 1, 2, 3, 4, generator=torch.Generator().manual_seed(1)).bfloat16()

    def learn(rank):
        own = x[rank].clone().requires_grad_()
        y = norms[rank](own)
        y.sum().backward()
        return y, own.grad

    for y, gradient in in_two_processes(monkeypatch, learn):
        assert (y.dtype, gradient.dtype) == (torch.bfloat16, torch.bfloat16)
        assert gradient.abs().max() < 0.05  # the sum of normalised values is constant
