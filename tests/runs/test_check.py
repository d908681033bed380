"""`train.py --check` does what the first step of the training does, and leaves nothing behind."""

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import train
from errors import UserError
from models.segformer.model import SegFormer
from tests.conftest import train as train_whole

SEG = "configs/small/seg.yaml"
EVERYTHING = [
    "precision=bf16",
    "ema_decay=0.9",
    "gradient_clip=1.0",
    "system.channels_last=true",
    "system.max_per_process=2",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple]:
    """The arguments of all calls of a function, which is still called."""
    calls, original = [], getattr(owner, name)

    def counted(*values, **named):
        calls.append(values)
        return original(*values, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_it_takes_a_step_with_all_that_the_training_uses(tiny, here, monkeypatch, capsys):
    steps, averages = (
        count(monkeypatch, torch.optim.AdamW, "step"),
        count(monkeypatch, AveragedModel, "update_parameters"),
    )
    clips, forwards = count(monkeypatch, train, "clip_grad_norm_"), count(monkeypatch, SegFormer, "forward")
    predictions = count(monkeypatch, SegFormer, "predict")
    here("train", "--cfg", SEG, "--check", *tiny, *EVERYTHING)
    assert [len(calls) for calls in (steps, averages, clips, forwards, predictions)] == [1, 1, 1, 2, 1]
    assert clips[0][1] == 1.0
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for _, batch in forwards)
    assert predictions[0][0] is averages[0][0].module  # the averaged weights, which an evaluation uses
    assert "one step    losses loss_ce" in capsys.readouterr().out


def test_it_neither_reads_nor_changes_a_run_that_is_there(tiny, tmp_path, here, capsys):
    here("train", "--cfg", SEG, *tiny, "steps=3")
    (tmp_path / "seg/checkpoints/last.pt").write_bytes(b"damaged")
    before = contents(tmp_path)
    capsys.readouterr()
    # Of another model; and the weights that it started from are gone.
    here("train", "--cfg", SEG, "--check", *tiny, "steps=3", "model.channels=24", "model.weights=/gone.pt")
    printed = capsys.readouterr().out
    assert "warning" not in printed
    assert "weights     from its checkpoint" in printed
    assert contents(tmp_path) == before


def test_it_says_that_the_first_step_fails(tiny, here, monkeypatch):
    original = SegFormer.forward
    monkeypatch.setattr(
        SegFormer, "forward", lambda *values: {name: loss * torch.nan for name, loss in original(*values).items()}
    )
    with pytest.raises(UserError, match=r"step 1: .* is not finite"):
        here("train", "--cfg", SEG, "--check", *tiny)


def test_two_processes_check_together(tiny, tmp_path):
    printed = train_whole("--check", *tiny, "sync_batch_norm=true", "ema_decay=0.9", processes=2)
    assert printed.count("one step    losses loss_ce") == 1
    assert not list(tmp_path.iterdir())
