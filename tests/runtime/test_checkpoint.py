"""Checkpoints are whole or detected, and the one before stays."""

import os

import pytest
import torch

from errors import UserError
from runtime import checkpoint as module
from runtime.checkpoint import Checkpoints, load_checkpoint


def state(step: int) -> dict:
    return {"config": {"a": 1}, "step": step, "model": {"w": torch.arange(6.0) + step}, "ema": None}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_last_previous_and_best(checkpoints):
    assert checkpoints.load() is None
    checkpoints.save(state(1), is_best=True)
    checkpoints.save(state(2))
    found, path = checkpoints.load()
    assert (found["step"], path) == (2, checkpoints.last)
    assert torch.equal(found["model"]["w"], torch.arange(6.0) + 2)
    assert load_checkpoint(checkpoints.previous)["step"] == 1
    assert load_checkpoint(checkpoints.best)["step"] == 1
    assert sorted(os.listdir(checkpoints.folder)) == ["best.pt", "last.pt", "previous.pt"]


def test_torch_opens_it_without_us(checkpoints):
    checkpoints.save(state(3))
    assert torch.load(checkpoints.last, weights_only=True)["step"] == 3


def test_no_sound_checkpoint_is_an_error(checkpoints):
    checkpoints.save(state(1))
    checkpoints.last.write_bytes(b"nothing")
    with pytest.raises(UserError, match="so is every older one"):
        checkpoints.load()


def test_a_failed_save_speaks_of_the_previous_checkpoint_only_if_there_is_one(checkpoints, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    messages = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(module.torch, "save", fail)
            with pytest.raises(UserError) as caught:
                checkpoints.save(state(2))
        messages.append(str(caught.value))
        checkpoints.save(state(1))
    assert ["the previous checkpoint is intact" in message for message in messages] == [False, True]


def test_a_warning_speaks_of_another_checkpoint_only_if_one_is_tried(checkpoints, capsys):
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    checkpoints.last.write_bytes(b"cut")
    checkpoints.load()
    assert "; trying the previous checkpoint\n" in capsys.readouterr().out
    checkpoints.previous.unlink()
    with pytest.raises(UserError):
        checkpoints.load()
    assert "trying" not in capsys.readouterr().out


def test_damaged_last_never_replaces_the_previous(checkpoints):
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    checkpoints.last.write_bytes(b"cut")
    resumed = Checkpoints(checkpoints.folder)
    assert resumed.load()[0]["step"] == 1
    resumed.save(state(3))
    assert load_checkpoint(resumed.previous)["step"] == 1
    assert load_checkpoint(resumed.last)["step"] == 3


def test_file_systems_without_hard_links_will_do(checkpoints, monkeypatch):
    def fail(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", fail)
    for step in (1, 2):
        checkpoints.save(state(step), is_best=True)
    found = [load_checkpoint(path)["step"] for path in (checkpoints.last, checkpoints.previous, checkpoints.best)]
    assert found == [2, 1, 2]


def test_foreign_file_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no checksum"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
