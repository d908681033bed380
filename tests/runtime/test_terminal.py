"""What a run prints on a terminal, into a pipe, and when a signal stops it."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import warnings
from types import SimpleNamespace

import pytest
import torch

from errors import Interrupted, run_command
from runtime.distributed import Processes
from runtime.log import RunLog
from runtime.signals import StopSignals
from tests import launch
from tests.conftest import ROOT, command, logged
from tests.faults.tasks import runs_until
from workflow.announce import header, worker_warnings

SEG = "configs/small/seg.yaml"
METRICS = {"mIoU": 12.345, "bbox/APl": float("nan")}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def logging(folder, monkeypatch, stderr) -> None:
    """A log of ten steps, two of them done, with one evaluation, while stderr is what is given."""
    monkeypatch.setattr(sys, "stderr", stderr)
    with RunLog(folder, 0, 0, 10, 6, Processes(0, 1, torch.device("cpu"))) as log:
        for step in (1, 2):
            log.add_losses(step, {"loss": torch.tensor(1.5)}, torch.tensor(False), ["a"])
            log.flush(0.1)
            log.add_evaluation(METRICS, 5.0, ["mIoU"], "mIoU")


def test_a_terminal_has_a_bar_and_a_pipe_has_lines(tmp_path, monkeypatch, capsys):
    screen = Screen()
    logging(tmp_path / "a", monkeypatch, screen)
    last = screen.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith("2/10 |")
    for word in ("left", "loss 1.5000", "mIoU 12.35", "images/s", "waiting", "GB"):
        assert word in last
    assert "step 2/10" not in capsys.readouterr().out

    pipe = io.StringIO()
    logging(tmp_path / "b", monkeypatch, pipe)
    lines = capsys.readouterr().out.splitlines()
    number = r"[\d.e+-]+"
    expected = (
        rf"step 1/10  loss 1.5000  lr 1.00e-01  {number} images/s  \d+% waiting for data  {number} GB  \d\d:\d\d left"
    )
    assert re.fullmatch(expected, lines[0])
    assert lines[1] == "step 1: mIoU 12.35"
    assert (len(lines), pipe.getvalue()) == (4, "")


def test_all_metrics_are_logged_and_the_headline_is_printed(tmp_path, monkeypatch, capsys):
    logging(tmp_path, monkeypatch, io.StringIO())
    assert "APl" not in capsys.readouterr().out
    assert "bbox/APl" in logged(tmp_path, "val")[0]


def stopped(folder, number: int, at_once: bool) -> Interrupted:
    """How a run ends that gets a signal once or twice in its fifth step."""
    try:
        with (
            RunLog(folder, 4, 4, 10, 6, Processes(0, 1, torch.device("cpu"))) as log,
            StopSignals() as stop,
        ):
            log.step = 5
            for _ in range(1 + at_once):
                signal.raise_signal(number)
            raise Interrupted(stop.received)
    except Interrupted as end:
        return end


def test_a_signal_ends_with_what_is_saved_and_how_to_go_on(tmp_path, capsys):
    first, second = (stopped(tmp_path, signal.SIGINT, at_once) for at_once in (False, True))

    def end():
        raise first

    with pytest.raises(SystemExit) as code:
        run_command(end)
    assert code.value.code == 130
    saved = f"saved in {tmp_path}/checkpoints/last.pt; the same command goes on from there"
    assert capsys.readouterr().out == f"stopped by SIGINT at step 5 of 10, {saved}\n"
    assert second.__notes__ == [
        "stopped at once by SIGINT at step 5 of 10, not saved; "
        f"the same command goes on from an earlier step, if {tmp_path}/checkpoints has one"
    ]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_stops_a_run_that_the_same_command_continues(tiny, tmp_path, processes):
    words = ["--cfg", SEG, *tiny, "steps=1000", "evaluation.every=1000", "run_name=a"]
    running = launch.start("train", *words, processes=processes)
    runs_until(running, lambda: (tmp_path / "a/log.jsonl").exists() and logged(tmp_path / "a", "train"))
    for rank in range(processes):
        running.send(signal.SIGINT, rank)
    done = running.wait()
    assert (done.codes, done.err) == ([130] * processes, "")
    step = torch.load(tmp_path / "a/checkpoints/last.pt", weights_only=True)["step"]
    assert re.findall("stopped by .*", done.out) == [
        f"stopped by SIGINT at step {step} of 1000, saved in {tmp_path}/a/checkpoints/last.pt; "
        "the same command goes on from there"
    ]


def test_the_header_says_what_runs_and_where_to_look(tmp_path):
    from experiment import load_experiment

    experiment = load_experiment(ROOT / SEG, ["run_name=a", "steps=75"])
    run = SimpleNamespace(
        experiment=experiment,
        processes=Processes(0, 1, torch.device("cpu")),
        layout=experiment.batch_layout(Processes(0, 1, torch.device("cpu"))),
        model=torch.nn.Linear(999, 10),
        optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1),
        training_set=range(300),
        validation_set=range(60),
    )
    found = {line[:11].strip(): line[12:] for line in header(run)}
    assert found["run"] == "runs/a: segformer with dysample, task semantic"
    assert found["data"] == "ade20k: 300 training and 60 validation images, 15 classes"
    assert found["parameters"] == "0.01 M"
    assert found["steps"] == "75 (2.0 epochs), 1 evaluations"
    assert found["base LR"] == "0.1 in 1 parameter groups"
    assert found["look"].startswith("tensorboard --logdir runs; pictures in runs/a/pictures")
    assert found["device"].endswith("1 process, fp32")


def test_too_many_workers_are_told_once(monkeypatch):
    from datasets.workers import BatchLoader

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(BatchLoader(list, [[1], [2]], 2)) == [1, 2]
    assert caught == []
    said = "warning: system.workers: 2 processes read images, and there are 1 cores; fewer may be faster"
    assert (worker_warnings(2), worker_warnings(1)) == ([said], [])


@pytest.mark.slow
def test_a_whole_run_on_a_real_terminal(tiny):
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    running = subprocess.Popen(command("train.py", "--cfg", SEG, *tiny), cwd=ROOT, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(main, 1 << 16):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    assert running.wait() == 0
    text = shown.decode()
    assert "parameters  " in text
    assert "6/6 |" in text
    assert "step 6/6" not in text
