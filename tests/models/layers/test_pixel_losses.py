"""The losses of semantic segmentation against their formulas, by autograd on logits at full size."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from models.components import LossConfigs
from models.layers import pixel_losses as module
from models.layers.class_weights import class_weights
from models.layers.dice import DiceConfig
from models.layers.ohem import OHEMConfig, order_statistic
from models.layers.pixel_losses import FocalConfig, pixel_losses
from structures import IGNORE, ClassFrequencies, DatasetInfo
from tests.models.processes import in_two_processes

K, SIZE = 5, (24, 32)
INFO = DatasetInfo("semantic", "any", tuple("abcde"))
WEIGHTS = [0.5, 1.0, 2.0, 0.0, 3.0]


def example() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(IGNORE, K - 1, (2, *SIZE)).to(torch.int16)  # the last class does not occur
    return (2 * torch.randn(2, K, 6, 8)).requires_grad_(), labels


def log_probabilities(logits: Tensor) -> Tensor:
    return F.interpolate(logits, SIZE, mode="bilinear").log_softmax(dim=1)


def of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The log probability of the class of each pixel, [B, H, W]."""
    return log_probabilities(logits).gather(1, labels.clamp(min=0).long()[:, None])[:, 0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    weights = torch.tensor(WEIGHTS)[labels.clamp(min=0).long()] * (labels != IGNORE)
    return -(weights * of_labels(logits, labels)).sum() / labels.numel()


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    log_p = of_labels(logits, labels)
    return -((labels != IGNORE) * (1 - log_p.exp()) ** gamma * log_p).sum() / labels.numel()


def ohem(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    log_p = of_labels(logits, labels)
    ordered = log_p.exp()[labels != IGNORE].sort().values
    limit = max(ordered[min(min_kept * len(labels), len(ordered) - 1)].item(), threshold)
    return -((labels != IGNORE) * (log_p.exp() < limit) * log_p).sum() / labels.numel()


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    p = log_probabilities(logits).exp().movedim(1, -1)[labels != IGNORE]
    g = F.one_hot(labels[labels != IGNORE].long(), K).float()
    values = 2 * (p * g).sum(0) / (p.square().sum(0) + g.square().sum(0))
    return (1 - values)[g.sum(0) > 0].mean()


CASES = {
    "cross_entropy": ({"name": "cross_entropy", "class_weights": WEIGHTS}, cross_entropy),
    "focal": ({"name": "focal", "weight": 1.0}, lambda *values: focal(*values, 2.0)),
    "focal_half": ({"name": "focal", "gamma": 0.5}, lambda *values: focal(*values, 0.5)),
    "ohem_threshold": ({"name": "ohem", "threshold": 0.3, "min_kept": 2}, lambda *values: ohem(*values, 0.3, 2)),
    "ohem_kept": ({"name": "ohem", "threshold": 0.01, "min_kept": 300}, lambda *values: ohem(*values, 0.01, 300)),
    "ohem_all": ({"name": "ohem", "min_kept": 10_000}, lambda *values: ohem(*values, 0.7, 10_000)),
    "dice": ("dice", dice),
}


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradient_equal_the_formula(case: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS_ON_CPU", chunk)
    setting, formula = CASES[case]
    (config,) = TypeAdapter(LossConfigs).validate_python([setting])
    logits, labels = example()
    expected = formula(logits, labels)
    (value,) = pixel_losses([config.build(INFO)], logits, labels, [SIZE, SIZE]).values()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(torch.autograd.grad(3 * value, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(ours, 3 * theirs, rtol=1e-4, atol=1e-7)


def test_losses_are_weighted_and_named() -> None:
    losses = TypeAdapter(LossConfigs).validate_python(["cross_entropy", {"name": "dice", "weight": 3}])
    logits, labels = example()
    values = pixel_losses([loss.build(INFO) for loss in losses], logits, labels, [SIZE, SIZE])
    assert list(values) == ["loss_ce", "loss_dice"]
    torch.testing.assert_close(values["loss_dice"], 3 * dice(logits, labels))


def test_a_loss_may_be_listed_once() -> None:
    with pytest.raises(ValidationError, match="dice is listed twice; list it once"):
        TypeAdapter(LossConfigs).validate_python(["dice", {"name": "dice", "weight": 3}])


@pytest.mark.parametrize("config", [FocalConfig(), OHEMConfig(), DiceConfig()], ids=lambda config: config.name)
def test_without_labelled_pixels_loss_and_gradient_are_zero(config: FocalConfig | OHEMConfig | DiceConfig) -> None:
    logits, labels = example()
    (value,) = pixel_losses([config.build(INFO)], logits, torch.full_like(labels, IGNORE), [SIZE, SIZE]).values()
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_sure_pixels_have_a_finite_gradient() -> None:
    logits = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    for gamma in (0.5, 1.0, 2.0):
        loss = FocalConfig(gamma=gamma).build(INFO)
        for label, expected in ((0, 0.0), (1, 200.0)):
            value = loss(logits, torch.full((1, 2, 2), label), [(2, 2)])
            assert value.item() == pytest.approx(expected)
            assert torch.autograd.grad(value, logits)[0].isfinite().all()


def testorder_statistic_is_that_of_the_sorted_values() -> None:
    values = torch.rand(1000).clamp(min=0.3)  # some are equal
    ordered = values.sort().values
    for rank in (0, 1, 299, 300, 999):
        assert order_statistic(values, rank) == ordered[rank]
    assert order_statistic(values, 5000) == ordered[-1]
    assert order_statistic(values[:0], 3) == 0


def testorder_statistic_counts_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(101)
    parts = values[:30], values[30:]
    found = in_two_processes(monkeypatch, lambda rank: order_statistic(parts[rank], 10 + rank))
    assert found == [values.sort().values[21]] * 2


# --- class weights ---------------------------------------------------------------------------------------------------

FREQUENCIES = ClassFrequencies((0.5, 0.3, 0.2, 0.0), (0.5, 0.6, 0.4, 0.0))
COUNTED = DatasetInfo("semantic", "any", tuple("abcd"), frequencies=lambda: FREQUENCIES)


def test_median_frequency_balancing() -> None:
    weights = class_weights("median_frequency", COUNTED)
    assert weights.tolist() == pytest.approx([0.5 / 0.5, 0.5 / 0.6, 0.5 / 0.4, 1])  # type: ignore[union-attr]


def test_inverse_log_frequency() -> None:
    weights = class_weights("inverse_log", COUNTED)
    expected = [1 / math.log(1.02 + share) for share in (0.5, 0.3, 0.2, 0)]
    assert weights.tolist() == pytest.approx(expected)  # type: ignore[union-attr]
    assert expected[-1] == pytest.approx(50.5, rel=1e-3)


def test_a_rule_is_for_training_data_alone() -> None:
    assert class_weights("inverse_log", INFO) is None


def test_weights_by_name_and_in_order() -> None:
    assert class_weights({"b": 2.0}, INFO).tolist() == [1, 2, 1, 1, 1]  # type: ignore[union-attr]
    assert class_weights(tuple(WEIGHTS), INFO).tolist() == WEIGHTS  # type: ignore[union-attr]


def test_unfit_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="names f, which is no class; use one of a, b"):
        class_weights({"f": 2.0}, INFO)
    with pytest.raises(ValueError, match="has 2 numbers for 5 classes; give one number"):
        class_weights((1.0, 2.0), INFO)
