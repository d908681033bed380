"""Where a run shows its numbers: CSV files, and services that may fail, hang or be slow."""

import csv
import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from errors import UserError
from runtime.distributed import Processes
from runtime.log import RunLog
from runtime.sinks import services
from tests.conftest import logged


class Fake:
    """A service with the interface of wandb. behave: called at every log."""

    def __init__(self, behave=lambda: None):
        self.logged, self.options, self.finished, self.behave = [], {}, False, behave

    def init(self, **options):
        self.options = options
        return self

    def log(self, numbers, step):
        self.behave()
        self.logged.append((step, numbers))

    def Image(self, picture):  # noqa: N802  # its name in wandb
        return picture.shape

    def finish(self):
        self.finished = True


@pytest.fixture
def service(monkeypatch):
    """Let the package wandb be a fake."""

    def install(behave=lambda: None):
        fake = Fake(behave)
        module = SimpleNamespace(init=fake.init, Image=fake.Image, __spec__="here")
        monkeypatch.setitem(sys.modules, "wandb", module)
        return fake

    return install


def run(folder, first=1, last=3, sinks=("csv", "wandb"), evaluated=0):
    (folder / "config.yaml").write_text("steps: 3\n")
    with RunLog(folder, first - 1, evaluated, 3, 2, Processes(0, 1, torch.device("cpu")), sinks) as log:
        for step in range(first, last + 1):
            log.add_losses(step, {"loss_ce": torch.tensor(step / 2)}, torch.tensor(False), ["a"])
            log.flush(0.1)
        log.add_picture("a", np.zeros((4, 5, 3), np.uint8))
        log.add_evaluation({"mIoU": 30.0}, 5.0, ["mIoU"], "mIoU")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_sink_has_the_numbers_of_the_log(tmp_path, service):
    fake = service()
    run(tmp_path)
    train = logged(tmp_path, "train")
    assert [row["loss_ce"] for row in rows(tmp_path / "train.csv")] == ["0.5", "1.0", "1.5"]
    assert [float(row["memory_gb"]) for row in rows(tmp_path / "train.csv")] == [line["memory_gb"] for line in train]
    assert rows(tmp_path / "val.csv") == [{"step": "3", "mIoU": "30.0", "seconds": "5.0"}]
    assert [(step, numbers["train/loss_ce"]) for step, numbers in fake.logged[:3]] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert fake.logged[3:] == [(3, {"pictures/a": (4, 5, 3)}), (3, {"val/mIoU": 30.0, "val/seconds": 5.0})]
    assert fake.finished
    assert fake.options["config"] == {"steps": 3}


def test_a_resumed_run_continues_the_files_and_the_run_at_the_service(tmp_path, service):
    first = service()
    run(tmp_path)
    second = service()
    run(tmp_path, first=2)  # from the checkpoint of step 1
    assert [row["step"] for row in rows(tmp_path / "train.csv")] == ["1", "2", "3"]
    assert [row["step"] for row in rows(tmp_path / "val.csv")] == ["3"]
    assert first.options["id"] == second.options["id"] == json.loads((tmp_path / "sinks.json").read_text())["wandb"]


def test_a_column_that_comes_later_is_added(tmp_path):
    run(tmp_path, sinks=["csv"])
    with RunLog(tmp_path, 3, 3, 4, 2, Processes(0, 1, torch.device("cpu")), ["csv"]) as log:
        log.add_losses(4, {"loss_dice": torch.tensor(9.0)}, torch.tensor(False), ["a"])
        log.flush(0.1)
    found = rows(tmp_path / "train.csv")
    assert [(row["loss_ce"], row["loss_dice"]) for row in found[2:]] == [("1.5", ""), ("", "9.0")]


def test_an_error_of_a_service_is_told_once_and_the_run_goes_on(tmp_path, service, capsys):
    def refuse():
        raise SystemExit("no\nkey")

    service(refuse)
    run(tmp_path)
    assert len(rows(tmp_path / "train.csv")) == 3
    printed = capsys.readouterr().out
    assert printed.count("logging to wandb failed (SystemExit: no") == 1
    assert "the run goes on without it" in printed


def test_a_service_that_hangs_or_is_slow_stops_nothing(tmp_path, service, capsys, monkeypatch):
    monkeypatch.setattr(services, "CLOSING", 0.1)
    monkeypatch.setattr(services, "WAITING", 2)
    release = threading.Event()
    service(lambda: release.wait(60))
    try:
        run(tmp_path)
    finally:
        release.set()
    assert len(rows(tmp_path / "train.csv")) == 3
    printed = capsys.readouterr().out
    assert "logging to wandb: it is too slow; part of the log is in log.jsonl alone" in printed
    assert "logging to wandb: it does not answer" in printed


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"logging\.sinks: the package trackio is not installed; install it \(pip"):
        run(tmp_path, sinks=["trackio"])
