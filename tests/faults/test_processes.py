"""Several processes and what one of them does to the others; folders and losses that a run cannot go on with."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from errors import UserError
from models.layers.pixel_losses import pixel_cross_entropy
from runtime.arithmetic import deterministic_algorithms
from tests.conftest import ROOT, command
from tests.faults.tasks import (
    IN_EVALUATION,
    TASKS,
    at_call,
    die,
    differences,
    kill_worker,
    left_by,
    lower_timeout,
    runs_until,
    sleep_at,
    spoil_loss,
    spoil_weights,
)
from tests.launch import Done, run, start
from upsamplers import NAMES

CHAPTER = "Several processes"
SEG = TASKS["segmentation"]


def in_one_line(done: Done, *expected: str, codes: tuple[int, ...]) -> list[str]:
    """What is wrong with a command that had to end in one line with these words."""
    fine = done.err.count("\n") == 1 and done.err.startswith("error: ") and all(word in done.err for word in expected)
    return [] if fine and tuple(done.codes) == codes else [f"{done.codes} {done.err}"]


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"seg/checkpoints/{name}.pt").read_bytes() for name in ("last", "best")}


# --- a process or a worker is killed ---------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_process_ends_when_one_is_killed(scenes, tmp_path, tally, rank):
    words = SEG.words(scenes, tmp_path, "steps=1000000", "evaluation.every=1000000")
    running = start("train", *words, processes=2)
    runs_until(running, lambda: "step 3/" in running.out())
    killed = time.monotonic()
    running.send(signal.SIGKILL, rank)
    done = running.wait()
    assert "Traceback" not in done.err
    codes = (-9, 2) if rank == 0 else (2, -9)
    if rank == 0:  # it kept the store, which PyTorch misses aloud; torchrun keeps it where it is used
        done = replace(done, err="".join(line for line in done.err.splitlines(True) if line.startswith("error: ")))
    found = in_one_line(done, f"process {1 - rank} of 2", "connection to another process is lost", codes=codes)
    found += [] if time.monotonic() - killed < 30 else ["took longer than 30 s"]
    tally(
        CHAPTER,
        "kill -9 to one of two; the other ends within 30 s, in one line that says why",
        tried=1,
        lost=len(found),
    )
    assert not found


def torchrun(scenes: Path, folder: Path, *options: str) -> subprocess.Popen:
    words = command("train.py", *SEG.words(scenes, folder, "steps=30"), processes=2)
    words[3:3] = options
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_last_child(agent: subprocess.Popen, log: Path) -> None:
    while not (log.exists() and len(log.read_text().splitlines()) >= 8):
        assert agent.poll() is None, agent.communicate()[0]
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)


@pytest.mark.whole
def test_under_torchrun_the_cause_is_named(scenes, tmp_path, tally):
    agent = torchrun(scenes, tmp_path)
    kill_last_child(agent, tmp_path / "seg/log.jsonl")
    killed = time.monotonic()
    output, _ = agent.communicate(timeout=120)
    lost = time.monotonic() - killed > 30 or "SIGKILL" not in output or agent.returncode == 0
    tally(
        CHAPTER,
        "kill -9 to one of two under torchrun; all end within 30 s, the output names it",
        tried=1,
        lost=int(lost),
    )
    assert not lost, output


@pytest.mark.whole
def test_torchrun_with_restarts_finishes_by_itself(scenes, tmp_path, tally):
    agent = torchrun(scenes, tmp_path / "killed", "--max-restarts", "1")
    kill_last_child(agent, tmp_path / "killed/seg/log.jsonl")
    output, _ = agent.communicate(timeout=240)
    assert run("train", *SEG.words(scenes, tmp_path / "whole", "steps=30"), processes=2).codes == [0, 0]
    assert agent.returncode == 0, output
    found = differences(left_by(tmp_path / "killed/seg"), left_by(tmp_path / "whole/seg"))
    what = "kill -9 to one of two under torchrun with --max-restarts 1; the run finishes by itself, bit-equal"
    tally(CHAPTER, what, tried=1, lost=int(bool(found)))
    assert not found
    assert "resuming" in output


@pytest.mark.whole
@pytest.mark.parametrize("place", ["train:set_learning_rate", "eval:result_record"])
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_data_worker_is_named_and_nothing_is_lost(scenes, tmp_path, tally, place, processes):
    words = SEG.words(scenes, tmp_path)
    sabotage = partial(kill_worker, 3 if place.startswith("train") else 1, place, processes - 1)
    done = run("train", *words, "system.workers=2", processes=processes, sabotage=[sabotage])
    found = in_one_line(done, "a worker process died (DataLoader worker (pid", codes=(2,) * processes)
    if not found:
        assert run("train", *words, processes=processes).codes == [0] * processes
        assert run("train", *SEG.words(scenes, tmp_path / "whole"), processes=processes).codes == [0] * processes
        found = differences(left_by(tmp_path / "seg"), left_by(tmp_path / "whole/seg"))
    what = "kill -9 to a data worker; one line names it, exit code 2, and the resumed run ends bit-equal"
    tally(CHAPTER, what, tried=1, lost=int(bool(found)))
    assert not found


# --- one process is slow, or refuses ---------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize(
    ("place", "rank"),
    [
        ("metrics.mean_iou:MeanIoU.compute", 0),
        ("runtime.log:RunLog.add_picture", 0),
        (IN_EVALUATION, 1),
        (IN_EVALUATION, 0),
    ],
)
def test_evaluation_may_take_longer_than_the_timeout(scenes, tmp_path, tally, place, rank):
    sabotage = [partial(lower_timeout, 5), sleep_at(place, 1, 10, rank)]
    done = run("train", *SEG.words(scenes, tmp_path), processes=2, sabotage=sabotage)
    what = "a metric, a picture or a share of the images takes one of two twice the collective timeout; the run goes on"
    tally(CHAPTER, what, tried=1, lost=int(done.codes != [0, 0]))
    assert done.codes == [0, 0], done.err


@pytest.mark.whole
def test_a_process_that_hangs_in_a_step_is_not_waited_for(scenes, tmp_path, tally):
    sabotage = [partial(lower_timeout, 5), sleep_at("train:set_learning_rate", 3, 60, 1)]
    done = run("train", *SEG.words(scenes, tmp_path), processes=2, sabotage=sabotage)
    found = in_one_line(done, "connection to another process is lost", codes=(2, 2))
    found += [] if done.seconds < 50 else [f"{done.seconds} s"]
    tally(CHAPTER, "one of two hangs in a step; both end after the timeout, in one line", tried=1, lost=len(found))
    assert not found


@pytest.mark.whole
@pytest.mark.parametrize("processes", [1, 2])
def test_refused_folders_end_the_run_at_once(scenes, tmp_path, tally, processes):
    long = ["steps=1000000", "evaluation.every=1000000"]
    running = start("train", *SEG.words(scenes, tmp_path, *long))
    runs_until(running, lambda: "step 2/" in running.out())
    (tmp_path / "file").write_text("")
    taken = {
        "another run is using this folder": SEG.words(scenes, tmp_path, *long),
        "cannot be written": SEG.words(scenes, tmp_path / "file"),
        "/proc/denseup": SEG.words(scenes, Path("/proc/denseup")),
    }
    found = []
    for expected, words in taken.items():
        done = run("train", *words, processes=processes)
        found += in_one_line(done, expected, codes=(2,) * processes)
        found += [] if done.seconds < 5 or os.getloadavg()[0] > os.cpu_count() else [f"{done.seconds} s"]
    alive = running.processes[0].exitcode is None
    running.send(signal.SIGKILL)
    running.wait()
    what = (
        "a folder in use by another run, a file in its place, one that cannot be made; one line within 5 s, exit code 2"
    )
    tally(CHAPTER, what, tried=len(taken), lost=len(found))
    assert not found
    assert alive


def test_wrong_input_of_several_processes_is_told_once(scenes, tmp_path, every, tally):
    data = tmp_path / "data"
    data.symlink_to(scenes / SEG.data)
    cases = {
        "steps: -1 is not possible": ([*SEG.words(scenes, tmp_path), "steps=-1"], []),
        "no such folder": ([*SEG.words(scenes, tmp_path), "data.root=/proc/nowhere"], []),
        "a bad image": (SEG.words(scenes, tmp_path / "bad"), [partial(at_call, IN_EVALUATION, 1, refuse, False, 1)]),
        "a bad picture": (
            SEG.words(scenes, tmp_path / "first"),
            [partial(at_call, "train:write_run_results", 1, refuse, False, 0)],
        ),
    }
    if not every:
        cases.pop("a bad picture")
    found = []
    for expected, (words, sabotage) in cases.items():
        done = run("train", *words, processes=2, sabotage=sabotage)
        found += in_one_line(done, "a bad" if sabotage else expected, codes=(2, 2))
    what = (
        "wrong settings, missing data, a bad image of one process alone; two processes say it in one line, exit code 2"
    )
    tally(CHAPTER, what, tried=len(cases), lost=len(found))
    assert not found


def refuse() -> None:
    raise UserError("here", "a bad thing", "mend it")


def fail() -> None:
    raise ZeroDivisionError("a defect")


@pytest.mark.whole
def test_a_defect_in_one_process_ends_both(scenes, tmp_path, tally):
    sabotage = [partial(at_call, "train:set_learning_rate", 3, fail, False, 1)]
    done = run("train", *SEG.words(scenes, tmp_path), processes=2, sabotage=sabotage)
    lost = done.codes != [1, 1] or done.err.count("Traceback") != 1 or "a defect" not in done.err
    tally(CHAPTER, "a defect in one of two; both end, one trace", tried=1, lost=int(lost))
    assert not lost, done.err


# --- numbers that are not finite -------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize(("processes", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_loss_that_is_not_finite_is_named_and_not_saved(scenes, tmp_path, tally, processes, rank):
    words = SEG.words(scenes, tmp_path, "logging.every=3")
    stop = partial(at_call, "train:set_learning_rate", 6, partial(die, signal.SIGTERM))
    assert run("train", *words, processes=processes, sabotage=[stop]).codes == [143] * processes
    before = files(tmp_path)
    done = run("train", *words, processes=processes, sabotage=[partial(spoil_loss, 2, rank)])
    expected = ("error: step 8: the loss is not finite (loss_ce nan) on images ADE_train_",)
    found = in_one_line(done, *expected, codes=(2,) * processes)
    found += [] if files(tmp_path) == before else ["checkpoints changed"]
    what = "NaN in a loss of one process of one, or of two; one line names step, images, terms; checkpoints stay equal"
    tally(CHAPTER, what, tried=1, lost=len(found))
    assert not found
    assert "epoch" not in done.err


@pytest.mark.whole
@pytest.mark.parametrize("processes", [1, 2])
def test_weights_that_are_not_finite_are_never_saved(scenes, tmp_path, tally, processes):
    words = SEG.words(scenes, tmp_path)
    stop = partial(at_call, "train:set_learning_rate", 7, partial(die, signal.SIGTERM))
    assert run("train", *words, processes=processes, sabotage=[stop]).codes == [143] * processes
    before = files(tmp_path)
    done = run("train", *words, processes=processes, sabotage=[partial(spoil_weights, 1)])  # then a save is due
    found = in_one_line(done, "error: step 8: ", "weights are not finite", codes=(2,) * processes)
    found += [] if files(tmp_path) == before else ["checkpoints changed"]
    what = "finite losses, then infinite weights; one line names step and weights, checkpoints stay byte-equal"
    tally(CHAPTER, what, tried=1, lost=len(found))
    assert not found


# --- deterministic algorithms ----------------------------------------------------------------------------------------


def test_every_upsampler_trains_by_deterministic_algorithms(scenes, tmp_path, every, tally):
    names = NAMES if every else NAMES[-1:]
    short = ["system.deterministic=true", "steps=2", "evaluation.every=2"]
    ends = {
        name: run("train", *SEG.words(scenes, tmp_path / name, f"model.upsampler={name}", *short)) for name in names
    }
    wrong = [done.err for done in ends.values() if done.code != 0]
    tally(CHAPTER, "system.deterministic on CPU; every upsampler trains", tried=len(names), lost=len(wrong))
    assert not wrong


def test_the_loss_has_a_deterministic_gradient_of_its_own():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7, requires_grad=True), torch.randint(-1, 5, (2, 21, 30)).to(torch.int16)
    gradients = []
    for wanted in (False, True):
        with deterministic_algorithms(wanted):
            gradients += torch.autograd.grad(
                pixel_cross_entropy(logits, labels, [tuple(each.shape) for each in labels]), logits
            )
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-8)


def test_an_operation_without_a_deterministic_form_is_named():
    with (
        pytest.raises(UserError, match=r"possible here \(put_ does not have a deterministic implementation\); choose"),
        deterministic_algorithms(True),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert not torch.are_deterministic_algorithms_enabled()
