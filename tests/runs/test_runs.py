"""Whole runs of SegFormer; the first is started as a user starts it."""

import shutil
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment import load_experiment
from runtime.distributed import start_processes
from tests import launch
from tests.conftest import ROOT, TINY, assert_same, logged, read, run, some, train, weights
from tools.demo_summary import most_frequent_class
from train import train as training
from upsamplers import NAMES


def test_train_evaluate_predict_score_as_a_user_does(tiny, tmp_path, scenes):
    done = run("train.py", "--cfg", "configs/small/seg.yaml", *tiny)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "seg"
    board = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert {"train/loss", "train/learning_rate", "val/mIoU"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"]

    done = run("eval.py", "--checkpoint", folder, "--json", tmp_path / "eval.json", "--predictions", tmp_path / "png")
    assert done.returncode == 0, done.stderr
    result, trained = read(tmp_path / "eval.json"), read(folder / "results.json")
    assert result["metrics"] == trained["metrics"]
    assert (result["task"], result["num_images"], result["step"]) == ("semantic", 5, trained["step"])
    assert len(result["per_class"]) == 15

    cfg = ["--cfg", "configs/small/seg.yaml", *tiny]
    best = torch.load(folder / "checkpoints/best.pt", weights_only=True)
    torch.save({"format": "denseup-weights", "model": best["model"]}, tmp_path / "weights.pt")
    words = ["--checkpoint", tmp_path / "weights.pt", *cfg, "--json", tmp_path / "weights.json"]
    assert launch.run("eval", *words).code == 0
    assert read(tmp_path / "weights.json")["metrics"] == result["metrics"]

    images = scenes / "ADEChallengeData2016/images/validation"
    assert launch.run("tools.predict", "--checkpoint", folder, images, "--out", tmp_path / "out").code == 0
    for path in (tmp_path / "png").glob("*.png"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "out" / "pictures" / path.name).exists()


@pytest.mark.parametrize("torchrun", some([False, True], False))
def test_two_processes_equal_one(tiny, tmp_path, torchrun):
    train(*tiny, "run_name=one")
    if torchrun:
        done = run("train.py", "--cfg", "configs/small/seg.yaml", *tiny, "run_name=two", processes=2)
        assert done.returncode == 0, done.stderr
    else:
        train(*tiny, "run_name=two", processes=2)
    one, two = (logged(tmp_path / name, "train") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    results = []
    for count in (1, 2):
        words = ["--checkpoint", tmp_path / "one", "--json", tmp_path / f"{count}.json", "evaluation.batch_size=1"]
        done = launch.run("eval", *words, processes=count)
        assert done.codes == [0] * count, done.err
        results.append(read(tmp_path / f"{count}.json"))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["per_class"] == results[1]["per_class"]


def test_rounds_of_one_process_equal_two_processes(tiny, tmp_path):
    # Each sees half of the batch at a time: batch statistics too, where they are not synchronised.
    train(*tiny, "run_name=rounds", "system.max_per_process=2")
    train(*tiny, "run_name=processes", "sync_batch_norm=false", processes=2)
    rounds, processes = (logged(tmp_path / name, "train") for name in ("rounds", "processes"))
    assert [line["loss"] for line in rounds] == pytest.approx([line["loss"] for line in processes], rel=1e-5)


@pytest.mark.parametrize("averaging", ["ema_decay=null", "ema_decay=0.5"])
def test_processes_with_statistics_of_their_own_score_the_model_that_is_saved(tiny, tmp_path, averaging):
    options = [*tiny, "sync_batch_norm=false", "evaluation.batch_size=1", averaging]
    train(*options, processes=2)
    trained = read(tmp_path / "seg/results.json")
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        done = launch.run("eval", "--checkpoint", tmp_path / "seg", "--json", path, processes=count)
        assert done.codes == [0] * count, done.err
        assert read(path)["metrics"] == trained["metrics"]


def wait_for(condition, running: launch.Running) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert running.processes[0].exitcode is None, running.wait().err
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_interrupted_run_ends_bit_identical(tiny, tmp_path, uninterrupted, number):
    options = [*tiny, "steps=40", "evaluation.every=25", "system.workers=1"]
    running = launch.start("train", "--cfg", "configs/small/seg.yaml", *options)
    log = tmp_path / "seg/log.jsonl"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 9, running)
    running.send(number)
    assert running.wait(60).code == (-9 if number == signal.SIGKILL else 128 + number)
    train(*options, "system.workers=0")
    assert_same(weights(tmp_path / "seg"), weights(uninterrupted))
    steps = [line["step"] for line in logged(tmp_path / "seg", "train")]
    assert steps == list(range(1, 41))
    board = EventAccumulator(str(tmp_path / "seg")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("uninterrupted")
    where = [f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}"]
    train(*TINY, *where, "steps=40", "evaluation.every=25")
    return folder / "seg"


def test_it_learns_more_than_the_most_frequent_class(uninterrupted):
    losses = [line["loss"] for line in logged(uninterrupted, "train")]
    assert sum(losses[-10:]) < sum(losses[:10])
    result = read(uninterrupted / "results.json")
    _, everywhere_the_same = most_frequent_class(result["per_class"])
    assert result["metrics"]["mIoU"] > everywhere_the_same


def test_finished_run_is_left_alone(tmp_path, scenes, uninterrupted):
    before = (shutil.copytree(uninterrupted, tmp_path / "seg") / "checkpoints/last.pt").read_bytes()
    where = [f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]
    assert "at step 40 of 40" in train(*TINY, *where, "steps=40", "evaluation.every=25")
    assert (tmp_path / "seg/checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("name", some(NAMES, "nearest", "fade", "dysample+"))
def test_every_upsampler_trains_and_evaluates(tiny, tmp_path, name):
    overrides = [*tiny, f"model.upsampler={name}", "steps=8", "evaluation.every=8", "optimizer.lr=0.005"]
    experiment = load_experiment(ROOT / "configs/small/seg.yaml", [*overrides, "schedule=constant"])
    training(experiment, start_processes("cpu"))
    losses = [line["loss"] for line in logged(tmp_path / "seg", "train")]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])
    assert read(tmp_path / "seg/results.json")["metrics"]["mIoU"] > 0


@pytest.mark.parametrize(
    "options",
    [
        ["precision=bf16", "ema_decay=0.9", "gradient_clip=1.0"],
        pytest.param(
            ["precision=fp16", "system.channels_last=true", "optimizer={name: sgd, lr: 0.01}", "schedule=cosine"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["system.compile=true"], marks=pytest.mark.slow),
    ],
)
def test_options_train_resume_and_evaluate(tiny, tmp_path, options):
    options = [*tiny, *options, "optimizer.rules=[]"]
    train(*options, "run_name=whole")
    running = launch.start("train", "--cfg", "configs/small/seg.yaml", *options)
    wait_for(lambda: (tmp_path / "seg/checkpoints/previous.pt").exists(), running)
    running.send(signal.SIGKILL)
    running.wait()
    train(*options)
    assert_same(weights(tmp_path / "seg"), weights(tmp_path / "whole"))
    path = tmp_path / "eval.json"
    assert launch.run("eval", "--checkpoint", tmp_path / "seg", "--json", path).code == 0
    assert read(path)["metrics"] == read(tmp_path / "seg/results.json")["metrics"]


def test_check_prints_the_plan_and_leaves_nothing(tiny, tmp_path):
    printed = train("--check", *tiny, "system.max_per_process=2")
    for expected in (
        "10 training and 5 validation images, 15 classes",
        "4 = 2 images x 2 rounds x 1 processes",
        "loss_ce",
    ):
        assert expected in printed
    assert not (tmp_path / "seg").exists()
