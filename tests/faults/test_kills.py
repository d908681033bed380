"""kill -9 at any moment; the same command again ends as if nothing had happened."""

import random
from functools import partial

import pytest

from tests.faults.tasks import (
    IN_EVALUATION,
    TASKS,
    die_at,
    die_in_the_middle_of_a_line,
    die_in_the_middle_of_a_save,
    differences,
    left_by,
)
from tests.launch import Done, Sabotage, run, start

CHAPTER = "Killed and resumed"
SEED = 20230801


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """What an undisturbed run of a task leaves behind and the seconds that it took, run once."""
    found = {}
    run("train", "--help")  # the first start of all takes longer

    def of(task: str) -> tuple[dict, float]:
        if task not in found:
            folder = tmp_path_factory.mktemp(task)
            done = run("train", *TASKS[task].words(scenes, folder))
            assert done.code == 0, done.err
            found[task] = left_by(folder / TASKS[task].demo), done.seconds
        return found[task]

    return of


def die_in_evaluation(rng: random.Random) -> list[Sabotage]:
    return [die_at(IN_EVALUATION, rng.randint(1, 9))]


def die_in_a_save(rng: random.Random) -> list[Sabotage]:
    number = rng.randint(1, 3)
    return [
        rng.choice(
            [
                partial(die_in_the_middle_of_a_save, number),
                die_at("os:link", number, after=rng.random() < 0.5),
                die_at("os:replace", number, after=rng.random() < 0.5),
                die_at("os:fsync", number),
            ]
        )
    ]


def killed(words: list[str], seconds: float, rng: random.Random, fault: str) -> Done:
    """Start a run and kill it, unless it is done before."""
    if fault == "moment":
        running = start("train", *words)
        running.processes[0].join(rng.uniform(0, seconds))
        if running.processes[0].exitcode is None:
            running.send()
        return running.wait()
    return run("train", *words, sabotage=die_in_evaluation(rng) if fault == "evaluation" else die_in_a_save(rng))


@pytest.mark.parametrize("task", TASKS)
def test_runs_killed_again_and_again_end_bit_equal(whole, scenes, tmp_path, every, tally, task):
    if not every and task != "segmentation":
        pytest.skip("in the whole suite")
    rng = random.Random(f"{SEED} {task}")
    expected, seconds = whole(task)
    faults = ["moment"] * 14 + ["evaluation"] * 3 + ["save"] * 3 if every else ["moment", "save"]
    rng.shuffle(faults)
    chain, kills, wrong = 0, 0, []
    while faults:
        # A run is killed and resumed until it is done before the next fault; then comes a new one.
        words = TASKS[task].words(scenes, tmp_path / str(chain))
        code = -9
        while faults and code == -9:
            done = killed(words, seconds, rng, faults[-1])
            code = done.code
            if code == -9:
                kills += 1
                faults.pop()
        if code == -9:
            done = run("train", *words)
        folder = tmp_path / str(chain) / TASKS[task].demo
        found = differences(left_by(folder), expected) if done.code == 0 else [f"{done.code} {done.err}"]
        wrong += [f"chain {chain}, after {kills} kills: {line}" for line in found]
        if done.code != 0:
            break
        chain += 1
    what = f"kill -9 at random moments, in evaluations and in saves, {task}; resumed, all ends bit-equal"
    tally(CHAPTER, what, tried=kills, lost=len(wrong))
    assert not wrong, (SEED, wrong)


# Every file that a run writes is written by these; in 10 steps each is called at most so often.
CALLS = {"os:replace": 19, "os:link": 11, "os:fsync": 33}
DIRECT = [die_at(place, number) for place, count in CALLS.items() for number in range(1, count + 1)]
HALVES = [
    partial(half, number)
    for half in (die_in_the_middle_of_a_save, die_in_the_middle_of_a_line)
    for number in range(1, 10)
]


@pytest.mark.whole
def test_killed_at_every_call_that_changes_a_file(whole, scenes, tmp_path, tally):
    task = "segmentation"
    expected, _ = whole(task)
    faults = [*DIRECT, *HALVES]
    wrong, kills = [], 0
    for index, fault in enumerate(faults):
        words = TASKS[task].words(scenes, tmp_path / str(index))
        kills += run("train", *words, sabotage=[fault]).code == -9
        done = run("train", *words)
        found = differences(left_by(tmp_path / str(index) / "seg"), expected) if done.code == 0 else [done.err]
        wrong += [f"{fault}: {line}" for line in found]
    what = (
        "kill -9 at each call that renames, links or flushes a file, and half way through checkpoints and log lines; "
        "resumed, all ends bit-equal"
    )
    tally(CHAPTER, what, tried=kills, lost=len(wrong))
    assert not wrong
    assert kills > 0.8 * len(faults)


@pytest.mark.whole
def test_a_killed_run_can_be_resumed_at_once(scenes, tmp_path, tally):
    # Data workers outlive their run for some seconds, and have inherited what it had open.
    words = TASKS["segmentation"].words(scenes, tmp_path, "system.workers=2")
    assert run("train", *words, sabotage=[die_at("os:replace", 6)]).code == -9
    done = run("train", *words)
    tally(CHAPTER, "kill -9 with data workers; the same command resumes at once", tried=1, lost=int(done.code != 0))
    assert done.code == 0, done.err


@pytest.mark.whole
@pytest.mark.parametrize("task", TASKS)
def test_equal_runs_are_bit_equal(whole, scenes, tmp_path, tally, task):
    expected, _ = whole(task)
    done = run("train", *TASKS[task].words(scenes, tmp_path))
    assert done.code == 0, done.err
    found = differences(left_by(tmp_path / TASKS[task].demo), expected)
    tally(CHAPTER, "two equal runs on CPU end bit-equal", tried=1, lost=int(bool(found)))
    assert not found
