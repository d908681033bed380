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


def test_every_truncation_is_detected(checkpoints):
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    whole = checkpoints.last.read_bytes()
    for length in range(0, len(whole), 7):
        checkpoints.last.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"damaged|cut short"):
            load_checkpoint(checkpoints.last)
    assert checkpoints.load()[0]["step"] == 1


def test_every_flipped_bit_is_detected(checkpoints):
    checkpoints.save(state(1))
    whole = bytearray(checkpoints.last.read_bytes())
    for place in range(0, len(whole), 5):
        whole[place] ^= 1 << place % 8
        checkpoints.last.write_bytes(whole)
        with pytest.raises(UserError, match=r"damaged|cut short"):
            load_checkpoint(checkpoints.last)
        whole[place] ^= 1 << place % 8


def test_no_sound_checkpoint_is_an_error(checkpoints):
    checkpoints.save(state(1))
    checkpoints.last.write_bytes(b"nothing")
    with pytest.raises(UserError, match="so is every older one"):
        checkpoints.load()


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


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_leaves_the_old_files(checkpoints, monkeypatch, call):
    checkpoints.save(state(1), is_best=True)
    before = {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "replace":
            patch.setattr(module.Path, "replace", fail)
        else:
            patch.setattr(module.os, call, fail)
        with pytest.raises(UserError, match="No space left"):
            checkpoints.save(state(2))
    assert {path.name: path.read_bytes() for path in checkpoints.folder.iterdir() if path.suffix == ".pt"} == before
    checkpoints.save(state(2))
    assert checkpoints.load()[0]["step"] == 2


def test_pickled_code_never_runs(checkpoints, tmp_path):
    canary = tmp_path / "canary"

    class Gadget:
        def __reduce__(self):
            return (os.mkdir, (str(canary),))

    checkpoints.save({**state(1), "extra": Gadget()})
    with pytest.raises(UserError, match="more than tensors"):
        load_checkpoint(checkpoints.last)
    assert not canary.exists()


def test_foreign_file_is_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no checksum"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
