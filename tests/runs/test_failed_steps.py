"""A step whose loss or gradient is not finite changes no weight, and ends the run when the log is next written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import train
from datasets.loading import next_batches
from errors import UserError
from experiment import load_experiment
from models.layers import pixel_losses
from runtime.distributed import Processes, start_processes
from runtime.log import RunLog
from runtime.optimizer import SGDConfig
from tests.conftest import ROOT

SGD = "optimizer={name: sgd, lr: 0.01, weight_decay: 0.1}"
SPOILT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a loss that is NaN": lambda loss, _: loss * torch.nan,
    "an infinite loss with a finite gradient": lambda loss, _: loss + torch.inf,
    "a finite loss with a gradient that is NaN": lambda loss, logits: loss + (logits * 0).sqrt().sum(),
}


def make_run(monkeypatch: pytest.MonkeyPatch, *options: str) -> train.Run:
    monkeypatch.chdir(ROOT)
    return train.Run(load_experiment("configs/small/seg.yaml", list(options)), start_processes("cpu"))


def step(run: train.Run) -> tuple[dict[str, Tensor], Tensor]:
    return train.train_step(run, next_batches(run.batches, run.layout.accumulation)[0])


def learnt(run: train.Run) -> list[Tensor]:
    """A copy of all weights and moments."""
    moments = [value for values in run.optimizer.state.values() for value in values.values()]
    return [tensor.detach().clone() for tensor in [*run.model.parameters(), *moments]]


def spoil(monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor, Tensor], Tensor]) -> None:
    original = pixel_losses.pixel_cross_entropy
    monkeypatch.setattr(pixel_losses, "pixel_cross_entropy", lambda logits, *rest: how(original(logits, *rest), logits))


@pytest.mark.parametrize("options", [["gradient_clip=1"], [SGD]])
@pytest.mark.parametrize("how", SPOILT)
def test_it_changes_neither_weights_nor_moments(how, options, tiny, monkeypatch):
    run = make_run(monkeypatch, *tiny, *options, "system.max_per_process=2")
    assert not step(run)[1]
    before = learnt(run)
    with monkeypatch.context() as patch:
        spoil(patch, SPOILT[how])
        assert step(run)[1]
    assert all(map(torch.equal, before, learnt(run)))
    assert not step(run)[1]
    after = learnt(run)
    assert all(tensor.isfinite().all() for tensor in after)
    assert not all(map(torch.equal, before, after))


def test_it_is_reported_with_its_images_and_saves_nothing(tiny, tmp_path, monkeypatch):
    late = ["logging.every=6", "logging.checkpoint_every=6", "evaluation.every=6"]
    monkeypatch.chdir(ROOT)
    spoil(monkeypatch, SPOILT["a finite loss with a gradient that is NaN"])
    experiment = load_experiment("configs/small/seg.yaml", [*tiny, *late])
    with pytest.raises(UserError, match=r"step 1: the gradient of the loss is not finite \(loss_ce \d.*ADE_train_0"):
        train.train(experiment, start_processes("cpu"))
    assert not (tmp_path / "seg/checkpoints").exists()


def test_the_process_whose_loss_is_not_finite_is_named(tmp_path):
    class First(Processes):
        def collect(self, value):
            other = [(7, False, "the loss is not finite (loss nan) on images b"), None]
            return [value, *other] if isinstance(value, tuple) else [value]

    with RunLog(tmp_path, 6, 0, 10, 2, First(0, 1, torch.device("cpu"))) as log:
        log.add_losses(7, {"loss": torch.tensor(1.0)}, torch.tensor(True), ["a"])
        with pytest.raises(UserError, match=r"step 7: the loss is not finite .* on images b"):
            log.flush(0.1)


def test_overflow_of_fp16_is_no_failure_and_changes_nothing(tiny, monkeypatch):
    run = make_run(monkeypatch, *tiny, SGD, "precision=fp16")
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**126})
    before = learnt(run)
    assert not step(run)[1]
    assert all(map(torch.equal, before, learnt(run)))
    assert run.scaler.get_scale() == 2.0**125


def test_sgd_with_prepared_momentum_is_sgd():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    pairs = [
        (ours, SGDConfig(lr=0.1, weight_decay=0.1).build(ours, 1)),
        (theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)),
    ]
    for _ in range(3):
        for model, optimizer in pairs:
            model.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
