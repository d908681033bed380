"""Stopped at chosen steps and resumed, also by other numbers of workers and processes; and what resuming reads."""

import itertools
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from runtime import checkpoint
from tests.conftest import logged
from tests.faults.tasks import (
    TASKS,
    at_call,
    die,
    differences,
    left_by,
    record_reads,
    record_steps,
    undisturbed,
)
from tests.launch import Done, Sabotage, run

CHAPTER = "Killed and resumed"
BATCH, IMAGES = 4, 10
ROUNDS = {1: "system.max_per_process=2", 2: "system.max_per_process=1"}  # two rounds of accumulation in any case
# Where SIGTERM comes: a function that is called once a step, and in which step.
POINTS = {
    "first step": ("train:set_learning_rate", 1),
    "mid-epoch": ("train:set_learning_rate", 6),
    "inside an accumulation window": ("train:local_gradients", 7),
    "last step": ("train:set_learning_rate", 10),
}


def stop_in(place: str, step: int, rank: int = 0) -> Sabotage:
    return partial(at_call, place, step, partial(die, signal.SIGTERM), False, rank)


def step_of(folder: Path) -> int:
    return torch.load(folder / "seg/checkpoints/last.pt", weights_only=True)["step"]


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """What undisturbed runs by one process and by two leave behind."""
    return undisturbed(scenes, tmp_path_factory, {processes: [word] for processes, word in ROUNDS.items()})


@pytest.mark.whole
def test_stopped_at_chosen_steps_ends_bit_equal(whole, scenes, tmp_path, tally):
    cases = list(itertools.product(POINTS, (1, 2), ((0, 2), (2, 0))))
    wrong = []
    for index, (point, processes, (workers, workers_after)) in enumerate(cases):
        place, step = POINTS[point]
        words = TASKS["segmentation"].words(scenes, tmp_path / str(index), ROUNDS[processes])
        first = [*words, f"system.workers={workers}"]
        done = run("train", *first, processes=processes, sabotage=[stop_in(place, step, processes - 1)])
        found = [] if done.codes == [143] * processes else [f"{done.codes} {done.err}"]
        saved = step_of(tmp_path / str(index))
        found += [] if saved == step else [f"saved at step {saved}"]
        done = run("train", *words, f"system.workers={workers_after}", processes=processes)
        found += [] if done.codes == [0] * processes else [f"{done.codes} {done.err}"]
        found = found or differences(left_by(tmp_path / str(index) / "seg"), whole(processes))
        wrong += [f"{point}, {processes} processes, {workers} then {workers_after} workers: {line}" for line in found]
    what = (
        "stopped at the first step, mid-epoch, inside an accumulation window, at the last step x 1, 2 processes x 0, 2 "
        "workers, resumed with 2, 0; saved at that step, and all ends bit-equal"
    )
    tally(CHAPTER, what, tried=len(cases), lost=len(wrong))
    assert not wrong


@pytest.mark.whole
def test_one_process_then_two_then_one_learn_the_same(scenes, tmp_path, tally):
    def go(folder: Path, processes: int, *sabotage: Sabotage) -> Done:
        words = TASKS["segmentation"].words(scenes, folder)
        note = partial(record_steps, str(folder))
        return run("train", *words, processes=processes, sabotage=[note, *sabotage])

    for folder in (tmp_path / "one", tmp_path / "changing"):
        folder.mkdir()
    assert go(tmp_path / "one", 1).code == 0
    for processes, last_step in ((1, 3), (2, 3)):
        done = go(tmp_path / "changing", processes, stop_in("train:set_learning_rate", last_step))
        assert done.codes == [143] * processes, done.err
    assert go(tmp_path / "changing", 1).code == 0
    order = [(folder / "steps").read_text().split("\n") for folder in (tmp_path / "one", tmp_path / "changing")]
    samples = [{line.split()[0]: [] for line in lines if line} for lines in order]
    for lines, steps in zip(order, samples, strict=True):
        for line in sorted(filter(None, lines), key=lambda line: line.split()[1]):  # by rank
            steps[line.split()[0]] += line.split()[2:]
    losses = [[line["loss"] for line in logged(tmp_path / name / "seg", "train")] for name in ("one", "changing")]
    same_order, close = samples[0] == samples[1], losses[1] == pytest.approx(losses[0], rel=1e-6)
    what = "one process, then two, then one; same samples in the same order, losses within 1e-6 of the run by one"
    tally(CHAPTER, what, tried=1, lost=int(not (same_order and close)))
    assert len(samples[0]) == 10
    assert same_order
    assert close, [b / a - 1 for a, b in zip(*losses, strict=True)]


@pytest.mark.whole
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("progress", [6, 9_996])
def test_resuming_reads_only_what_is_still_to_learn(scenes, tmp_path, tally, workers, progress):
    steps = progress + 4
    words = TASKS["segmentation"].words(
        scenes, tmp_path, f"steps={steps}", f"evaluation.every={steps}", f"system.workers={workers}"
    )
    assert run("train", *words, sabotage=[stop_in("train:set_learning_rate", 1)]).code == 143
    last = tmp_path / "seg/checkpoints/last.pt"
    checkpoint._write({**torch.load(last, weights_only=True), "step": progress}, last)
    done = run("train", *words, sabotage=[partial(record_reads, str(tmp_path / "reads"))])
    assert done.code == 0, done.err
    reads = [tuple(map(int, line.split())) for line in (tmp_path / "reads").read_text().splitlines()]
    ahead = 4 * BATCH if workers else 0  # two micro-batches a worker
    wrong = len(reads) < 4 * BATCH or len(reads) > 4 * BATCH + ahead
    positions = range(progress * BATCH, steps * BATCH)
    wrong = wrong or {epoch for epoch, _ in reads} - {
        position // IMAGES for position in range(progress * BATCH, (steps + 4) * BATCH)
    }
    wrong = wrong or not {position // IMAGES for position in positions} <= {epoch for epoch, _ in reads}
    what = (
        "resumed after 6 and after 9,996 steps; only the samples of the remaining steps are read, nothing is replayed"
    )
    tally(CHAPTER, what, tried=1, lost=int(bool(wrong)))
    assert not wrong, reads
