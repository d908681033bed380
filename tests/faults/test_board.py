"""What a reader of the log and the board sees of a run that was killed and resumed: each step once, in order."""

import random
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import logged
from tests.faults.tasks import TASKS
from tests.launch import Running, run, start

CHAPTER = "Logs"
SEED = 20230801
KILLS, STEPS = 5, 30
TRAINED, SCORED = list(range(1, STEPS + 1)), [7, 14, 21, 28, 30]
LENGTH = [f"steps={STEPS}", "evaluation.every=7", "evaluation.pictures=2", "logging.checkpoint_every=4"]


def killed(words: list[str], folder: Path, step: int, rng: random.Random) -> bool:
    """Start a run and kill it a moment after it has logged `step`; whether it was still under way."""
    running = start("train", *words)
    log = folder / "log.jsonl"
    while running.processes[0].exitcode is None and not _reached(log, step, running):
        running.processes[0].join(0.01)
    running.processes[0].join(rng.uniform(0, 0.2))
    if running.processes[0].exitcode is None:
        running.send()
    return running.wait().code == -9


def _reached(log: Path, step: int, running: Running) -> bool:
    """Whether this start, and not an earlier one, has come as far."""
    started = "at step" in running.out()
    return started and log.exists() and f'"step": {step},' in log.read_text()


def steps_seen(folder: Path) -> dict[str, list[int]]:
    """By tag of the board, the steps that TensorBoard shows."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    scalars = {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    return scalars | {tag: [event.step for event in board.Images(tag)] for tag in board.Tags()["images"]}


def problems(folder: Path) -> list[str]:
    """What is missing, double or out of order."""
    found = []
    for section, expected in (("train", TRAINED), ("val", SCORED)):
        steps = [line["step"] for line in logged(folder, section)]
        found += [] if steps == expected else [f"log.jsonl, {section}: {steps}"]
    tags = steps_seen(folder)
    for tag, steps in tags.items():
        expected = TRAINED if tag.startswith("train/") else SCORED
        found += [] if steps == expected else [f"{tag}: {steps}"]
    kinds = {kind: sum(tag.startswith(kind) for tag in tags) for kind in ("train/", "val/", "pictures/")}
    if min(kinds.values()) == 0 or kinds["pictures/"] != 2 or sum(kinds.values()) != len(tags):
        found.append(f"tags {sorted(tags)}")
    pictures = sorted(str(path.parent.name) for path in folder.glob("pictures/*/*.png"))
    if pictures != sorted(f"step_{step:08d}" for step in SCORED for _ in range(2)):
        found.append(f"pictures {pictures}")
    return found


@pytest.mark.whole
def test_every_step_is_seen_once_after_five_kills(scenes, tmp_path, tally):
    rng = random.Random(SEED)
    kills, wrong = 0, []
    for number in range(10):
        words = [*TASKS["segmentation"].words(scenes, tmp_path / str(number)), *LENGTH]
        folder = tmp_path / str(number) / "seg"
        for step in sorted(rng.sample(range(1, STEPS), KILLS)):
            kills += killed(words, folder, step, rng)
        done = run("train", *words)
        found = problems(folder) if done.code == 0 else [done.err]
        wrong += [f"run {number}: {line}" for line in found]
    what = (
        "kill -9 five times in a run, at random steps; resumed, log.jsonl, every tag of TensorBoard and the pictures "
    )
    what += "have each step exactly once, in order"
    tally(CHAPTER, what, tried=kills, lost=len(wrong))
    assert not wrong
    assert kills >= 30
