import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers import pixel_losses as module
from models.layers.pixel_losses import CrossEntropyConfig, pixel_cross_entropy, pixel_losses
from structures import IGNORE, DatasetInfo


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    resized = F.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    return F.cross_entropy(resized, labels.long(), ignore_index=IGNORE, reduction="sum") / labels.numel()


def example(h: int, w: int, H: int, W: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(IGNORE, 7, (2, H, W)).to(torch.int16)
    return (3 * torch.randn(2, 7, h, w)).requires_grad_(), labels


@pytest.mark.parametrize("sizes", [(8, 10, 32, 40), (25, 33, 97, 131), (8, 8, 5, 3), (6, 6, 6, 6), (1, 1, 4, 4)])
@pytest.mark.parametrize("chunk", [1, 1 << 12, 1 << 26])
def test_loss_and_gradient_equal_the_plain_formula(
    sizes: tuple[int, int, int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS_ON_CPU", chunk)
    logits, labels = example(*sizes)
    expected = plain(logits, labels)
    (gradient,) = torch.autograd.grad(expected, logits)
    loss = pixel_cross_entropy(logits, labels, [tuple(each.shape) for each in labels])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(5 * loss, logits)[0], 5 * gradient, rtol=1e-4, atol=1e-7)


def test_ignored_pixels_count_in_the_divisor() -> None:
    labels = torch.full((1, 4, 4), IGNORE)
    labels[0, 0] = 1
    loss = pixel_cross_entropy(torch.zeros(1, 2, 4, 4), labels, [(4, 4)])
    assert loss.item() == pytest.approx(0.6931472 * 4 / 16)


def test_without_labelled_pixels_loss_and_gradient_are_zero() -> None:
    logits = torch.randn(2, 5, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 16, 16), IGNORE, dtype=torch.int16), [(16, 16)] * 2)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    logits, labels = example(8, 8, 32, 32)
    logits = logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cross_entropy = CrossEntropyConfig().build(DatasetInfo("semantic", "any"))
        loss = pixel_losses([cross_entropy], logits, labels, [tuple(each.shape) for each in labels])["loss_ce"]
    torch.testing.assert_close(loss, plain(logits.float(), labels))
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16


def test_confident_logits_lose_no_precision() -> None:
    logits = torch.tensor([200.0, 0.0, -200.0]).reshape(1, 3, 1, 1)
    for label, expected in ((0, 0.0), (1, 200.0), (2, 400.0)):
        assert pixel_cross_entropy(logits, torch.full((1, 2, 2), label), [(2, 2)]).item() == pytest.approx(expected)
