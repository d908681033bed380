"""CUDA against the CPU. Skipped where there is none."""

import pytest
import torch

from upsamplers import NAMES, build_upsampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def build(name):
    torch.manual_seed(0)
    upsampler = build_upsampler(name, 32)
    for parameter in upsampler.parameters():
        if parameter.ndim == 4 and "dysample" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return upsampler.eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 32, 6, 160, generator=generator), torch.randn(2, 32, 12, 320, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_cuda_agrees_with_the_cpu_in_both_directions(name):
    upsampler, results = build(name), []
    for device in ("cpu", "cuda"):
        x, guide = (tensor.to(device).requires_grad_() for tensor in inputs())
        output = upsampler.to(device)(x, guide)
        (grad,) = torch.autograd.grad(output.square().sum(), x)
        results.append((output.cpu(), grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_on_cuda_stays_close(name, autocast):
    upsampler = build(name)
    x, guide = inputs()
    with torch.no_grad():
        expected = upsampler(x, guide)
        upsampler = upsampler.cuda() if autocast else upsampler.to("cuda", torch.bfloat16)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            output = upsampler(x.cuda().bfloat16(), guide.cuda().bfloat16())
    assert output.dtype == torch.bfloat16
    assert (output.float().cpu() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_on_cuda(name):
    upsampler = build(name).cuda()
    x, guide = (tensor.cuda() for tensor in inputs())
    expected = upsampler(x, guide)
    views = [tensor.to(memory_format=torch.channels_last) for tensor in (x, guide)]
    torch.testing.assert_close(upsampler(*views), expected, rtol=1e-3, atol=1e-4)
