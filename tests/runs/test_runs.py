"""Whole runs; the first two as a user would start them."""

import json
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import launch
from tests.conftest import ROOT, assert_same, logged, run, train, weights
from upsamplers import PAPER_NAMES


def test_train_evaluate_predict_score(tiny, tmp_path, scenes):
    done = run("train.py", "--cfg", "configs/demo/seg.yaml", *tiny)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "seg"
    for name in ("config.yaml", "log.jsonl", "results.json", "checkpoints/last.pt", "checkpoints/best.pt"):
        assert (folder / name).exists(), name
    assert list((folder / "pictures").rglob("*.png"))
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"train/loss", "train/learning_rate", "val/mIoU"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"]

    done = run("eval.py", "--checkpoint", folder, "--json", tmp_path / "eval.json", "--predictions", tmp_path / "png")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "eval.json").read_text())
    trained = json.loads((folder / "results.json").read_text())
    assert result["metrics"] == trained["metrics"]
    assert (result["task"], result["num_images"], result["step"]) == ("semantic", 5, trained["step"])
    assert len(result["per_class"]) == 15
    assert {"config", "checkpoint", "dataset", "split", "protocol", "environment"} <= result.keys()

    cfg = ["--cfg", "configs/demo/seg.yaml", *tiny]
    best = torch.load(folder / "checkpoints/best.pt", weights_only=True)
    torch.save({"format": "denseup-weights", "model": best["model"]}, tmp_path / "weights.pt")
    words = ["--checkpoint", tmp_path / "weights.pt", *cfg, "--json", tmp_path / "weights.json"]
    assert launch.run("eval", *words).code == 0
    assert json.loads((tmp_path / "weights.json").read_text())["metrics"] == result["metrics"]

    done = run("-m", "tools.score", *cfg, "--predictions", tmp_path / "png", "--json", tmp_path / "score.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "score.json").read_text())["metrics"] == result["metrics"]

    images = scenes / "ADEChallengeData2016/images/validation"
    done = run("-m", "tools.predict", "--checkpoint", folder, images, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "png").glob("*.png"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "out" / "pictures" / path.name).exists()


def test_two_processes_equal_one(tiny, tmp_path):
    train(*tiny, "run_name=one")
    done = run("train.py", "--cfg", "configs/demo/seg.yaml", *tiny, "run_name=two", processes=2)
    assert done.returncode == 0, done.stderr
    one, two = (logged(tmp_path / name, "train") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    checkpoint = tmp_path / "one/checkpoints/last.pt"
    results = []
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        assert run("eval.py", "--checkpoint", checkpoint, "--json", path, processes=count).returncode == 0
        results.append(json.loads(path.read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["per_class"] == results[1]["per_class"]


def test_rounds_of_one_process_equal_two_processes(tiny, tmp_path):
    # Each sees half of the batch at a time: batch statistics too, where they are not synchronised.
    train(*tiny, "run_name=rounds", "system.max_per_process=2")
    train(*tiny, "run_name=processes", "sync_batch_norm=false", processes=2)
    rounds, processes = (logged(tmp_path / name, "train") for name in ("rounds", "processes"))
    assert [line["loss"] for line in rounds] == pytest.approx([line["loss"] for line in processes], rel=1e-5)


def wait_for(condition, running: launch.Running) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert running.processes[0].exitcode is None, running.wait().err
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_run_ends_bit_identical(tiny, tmp_path, uninterrupted, number):
    options = [*tiny, "steps=40", "evaluation.every=25", "system.workers=1"]
    running = launch.start("train", "--cfg", "configs/demo/seg.yaml", *options)
    log = tmp_path / "seg/log.jsonl"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 9, running)
    running.send(number)
    assert running.wait(60).code == (-9 if number == signal.SIGKILL else 128 + number)
    train(*options, "system.workers=0")
    assert_same(weights(tmp_path / "seg"), weights(uninterrupted))
    steps = [line["step"] for line in logged(tmp_path / "seg", "train")]
    assert steps == list(range(1, 41))
    board = EventAccumulator(str(tmp_path / "seg/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == steps


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, scenes):
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("uninterrupted")
    where = [f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}"]
    train(*TINY, *where, "steps=40", "evaluation.every=25")
    return folder / "seg"


def test_finished_run_is_left_alone(tiny, tmp_path):
    train(*tiny)
    before = (tmp_path / "seg/checkpoints/last.pt").read_bytes()
    assert "at step 6 of 6" in train(*tiny)
    assert (tmp_path / "seg/checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("name", PAPER_NAMES)
def test_every_upsampler_trains_and_evaluates(tiny, tmp_path, name):
    import experiment as module
    from runtime.distributed import start_processes
    from train import train as training

    overrides = [*tiny, f"model.upsampler={name}", "steps=2", "evaluation.every=2"]
    experiment = module.load_experiment(ROOT / "configs/demo/seg.yaml", overrides)
    training(experiment, start_processes("cpu"))
    result = json.loads((tmp_path / "seg/results.json").read_text())
    assert 0 <= result["metrics"]["mIoU"] <= 100


@pytest.mark.parametrize(
    "options",
    [
        ["precision=bf16", "ema_decay=0.9", "gradient_clip=1.0"],
        ["precision=fp16", "system.channels_last=true", "optimizer={name: sgd, lr: 0.01}", "schedule=cosine"],
        pytest.param(["system.compile=true"], marks=pytest.mark.slow),
    ],
)
def test_options_train_resume_and_evaluate(tiny, tmp_path, options):
    options = [*tiny, *options, "optimizer.rules=[]"]
    train(*options, "run_name=whole")
    running = launch.start("train", "--cfg", "configs/demo/seg.yaml", *options)
    wait_for(lambda: (tmp_path / "seg/checkpoints/previous.pt").exists(), running)
    running.send(signal.SIGKILL)
    running.wait()
    train(*options)
    assert_same(weights(tmp_path / "seg"), weights(tmp_path / "whole"))
    path = tmp_path / "eval.json"
    assert launch.run("eval", "--checkpoint", tmp_path / "seg", "--json", path).code == 0
    trained = json.loads((tmp_path / "seg/results.json").read_text())
    assert json.loads(path.read_text())["metrics"] == trained["metrics"]


def test_check_prints_the_plan_and_leaves_nothing(tiny, tmp_path):
    printed = train("--check", *tiny, "system.max_per_process=2")
    for expected in (
        "10 training and 5 validation images, 15 classes",
        "4 = 2 images x 2 rounds x 1 processes",
        "loss_ce",
    ):
        assert expected in printed
    assert not (tmp_path / "seg").exists()
