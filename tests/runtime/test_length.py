"""Lengths in epochs and in percent."""

import pytest

from errors import UserError
from experiment import load_experiment
from runtime.schedule import PolyConfig, share_of, steps_of

DEMO = "configs/small/seg.yaml"


@pytest.mark.parametrize(("text", "steps"), [("12 epochs", 30), ("1 epoch", 2), ("0.1epochs", 1), ("7", 7), (7, 7)])
def test_epochs_are_whole_steps_and_at_least_one(text, steps):
    assert steps_of(text, epoch=2.5) == steps


@pytest.mark.parametrize(("text", "steps"), [("5 %", 10), ("2.5%", 5), ("0 %", 0), ("100 %", 200), (7, 7)])
def test_a_share_is_of_the_run(text, steps):
    assert share_of(text, steps=200) == steps


def test_a_relative_warmup_equals_that_many_steps():
    relative, absolute = PolyConfig(warmup_steps="10 %"), PolyConfig(warmup_steps=20)
    assert [relative.factor(step, 200) for step in range(200)] == [absolute.factor(step, 200) for step in range(200)]


def test_all_lengths_in_epochs_become_steps(scenes):
    root = f"data.root={scenes}/ADEChallengeData2016"  # 10 images
    lengths = ["steps=6 epochs", "evaluation.every=1 epoch", "logging.every=0.4 epochs", "logging.checkpoint_every=9"]
    experiment = load_experiment(DEMO, [root, "batch_size=4", *lengths])
    assert experiment.dump()["steps"] == "6 epochs"
    run = experiment.in_steps()
    assert (run.steps, run.evaluation.every, run.logging.every, run.logging.checkpoint_every) == (15, 2, 1, 9)
    assert run._where("steps") == "argument steps=6 epochs: steps"


def test_lengths_in_steps_need_no_data():
    experiment = load_experiment(DEMO, ["data.root=/proc/nowhere"])
    assert experiment.in_steps() is experiment


@pytest.mark.parametrize(
    "wrong",
    [
        "steps=0 epochs",
        "steps=5 %",
        "steps=-2 epochs",
        "steps=epochs",
        "evaluation.every=5 epoch s",
        "steps=0.0epochs",
        "schedule.warmup_steps=101 %",
        "schedule.warmup_steps=1 epoch",
        "schedule.warmup_steps=-5 %",
    ],
)
def test_other_texts_are_refused(wrong):
    with pytest.raises(UserError, match=rf"argument {wrong}: {wrong.partition('=')[0]}: "):
        load_experiment(DEMO, [wrong])
