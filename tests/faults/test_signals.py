"""SIGTERM, SIGINT and SIGUSR1, in a step and in an evaluation, to one process and to two."""

import itertools
import signal
import time
from functools import partial

import pytest
import torch

from tests.conftest import logged
from tests.faults.tasks import (
    IN_EVALUATION,
    TASKS,
    at_call,
    die,
    differences,
    left_by,
    runs_until,
    sleep_at,
    undisturbed,
)
from tests.launch import run, start

CHAPTER = "Signals"
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """What undisturbed runs by one process and by two leave behind."""
    return undisturbed(scenes, tmp_path_factory, {1: [], 2: []})


@pytest.mark.whole
def test_signal_from_outside_stops_the_run_within_a_step(whole, scenes, tmp_path, tally):
    cases = list(itertools.product(NUMBERS, (1, 2), (True, False)))  # to all processes, or to the last one alone
    wrong = []
    for index, (number, processes, to_all) in enumerate(cases):
        words = TASKS["segmentation"].words(scenes, tmp_path / str(index))
        folder = tmp_path / str(index) / "seg"
        running = start("train", *words, processes=processes)
        runs_until(running, lambda folder=folder: (folder / "log.jsonl").exists() and logged(folder, "train"))
        sent = time.monotonic()
        steps_then = len(logged(folder, "train"))
        for rank in range(0 if to_all else processes - 1, processes):
            running.send(number, rank)
        done = running.wait()
        found = [] if time.monotonic() - sent < 20 else ["took longer than 20 s"]
        if done.codes != [128 + number] * processes or done.err:
            found.append(f"{done.codes} {done.err}")
        saved = torch.load(folder / "checkpoints/last.pt", weights_only=True)["step"]
        if not steps_then <= saved == len(logged(folder, "train")) <= steps_then + 3:
            found.append(f"signal after step {steps_then}, saved {saved}")
        assert run("train", *words, processes=processes).codes == [0] * processes
        found = found or differences(left_by(folder), whole(processes))
        wrong += [f"{number}, {processes} processes, to all {to_all}: {line}" for line in found]
    what = (
        "SIGTERM, SIGINT or SIGUSR1 in a step, to one process, to one of two, to two; saved within a step, all exit "
        "with 128 + N within 20 s and without a word; resumed, all ends bit-equal"
    )
    tally(CHAPTER, what, tried=len(cases), lost=len(wrong))
    assert not wrong


@pytest.mark.whole
@pytest.mark.parametrize("place", [IN_EVALUATION, "metrics.mean_iou:MeanIoU.compute", "runtime.log:RunLog.add_picture"])
def test_signal_in_an_evaluation_need_not_wait_for_its_end(whole, scenes, tmp_path, tally, place):
    cases = list(itertools.product(NUMBERS, (1, 2)))
    wrong = []
    for index, (number, processes) in enumerate(cases):
        # The first process is busy for as long as no signal comes; the second one waits for it.
        rank = 0 if place != IN_EVALUATION else processes - 1
        words = TASKS["segmentation"].words(scenes, tmp_path / str(index))
        signals = partial(at_call, place, 2 if place == IN_EVALUATION else 1, partial(die, number), False, rank)
        busy = [sleep_at(IN_EVALUATION, 2, 60, 0)] if rank else []
        done = run("train", *words, processes=processes, sabotage=[signals, *busy])
        found = [] if done.seconds < 40 else [f"took {done.seconds} s"]  # the start included
        if done.codes != [128 + number] * processes or done.err:
            found.append(f"{done.codes} {done.err}")
        saved = torch.load(tmp_path / str(index) / "seg/checkpoints/last.pt", weights_only=True)["step"]
        found += [] if saved == 4 else [f"saved {saved}"]
        assert run("train", *words, processes=processes).codes == [0] * processes
        found = found or differences(left_by(tmp_path / str(index) / "seg"), whole(processes))
        wrong += [f"{number}, {processes} processes: {line}" for line in found]
    what = (
        "the same in the middle of an evaluation, of a metric and of a picture, to one process and to one of two, the "
        "other one busy; all exit with 128 + N before the end of the evaluation; resumed, all ends bit-equal"
    )
    tally(CHAPTER, what, tried=len(cases), lost=len(wrong))
    assert not wrong
