"""Two processes on CUDA, run by `make gpu`: on one GPU, which they share by gloo, and on two by NCCL if there are two.

NCCL refuses two processes on one GPU. Networks round differently in batches of other sizes, so what they compute is
compared within a tolerance.
"""

import json
from pathlib import Path

import pytest
import torch

from tests import launch
from tests.conftest import SHORT, logged, read, train
from tests.conftest import TINY as SEG

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
SMALL = ["model.backbone.channels=[8, 16, 40, 64]", *SHORT]
INST = [
    *SMALL,
    "model.channels=16",
    "data.train_transforms.0={long: 64, short: 48}",
    "data.train_transforms.1.size=[48, 64]",
    # At equal scores rounding would choose the proposals; here all of them are taken.
    *(f"model.{key}=9999" for key in ("rpn.before_nms_train", "rpn.proposals", "box_head.samples")),
    "model.rpn.nms_iou=1",
]
DEPTH = [*SMALL, "model.stem_channels=8", "model.channels=16", "data.train_transforms.0.size=[32, 64]"]
# Statistics of batch normalisation over all processes; losses over a number of objects; statistics of each process.
RUNS = {"seg": (SEG, "ADEChallengeData2016"), "inst": (INST, "coco"), "depth": (DEPTH, "nyu")}


@pytest.fixture(params=["gloo", pytest.param("auto", marks=needs_two)])
def exchange(request) -> list[str]:
    """Overrides that choose what exchanges tensors."""
    return ["system.device=cuda", f"system.backend={request.param}"]


def words(task: str, scenes: Path, folder: Path) -> list[str]:
    options, data = RUNS[task]
    return [*options, f"data.root={scenes}/{data}", f"output_dir={folder}"]


@pytest.mark.parametrize("task", ["seg", "inst"])
def test_two_processes_learn_like_one(task, exchange, scenes, tmp_path):
    cfg, options = f"configs/small/{task}.yaml", [*words(task, scenes, tmp_path), *exchange]
    train(*options, "run_name=one", cfg=cfg)
    train(*options, "run_name=two", cfg=cfg, processes=2)
    one, two = ([line["loss"] for line in logged(tmp_path / name, "train")] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-2)


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_what_two_processes_saved_scores_the_same_wherever_it_is_scored(task, exchange, scenes, tmp_path):
    cfg = f"configs/small/{task}.yaml"
    train(*words(task, scenes, tmp_path), *exchange, "run_name=two", cfg=cfg, processes=2)
    scores = [read(tmp_path / "two/results.json")["metrics"]]
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        done = launch.run("eval", "--checkpoint", tmp_path / "two", "--json", path, processes=count)
        assert done.codes == [0] * count, done.err
        scores.append(json.loads(path.read_text())["metrics"])
    for score in scores[1:]:
        assert score == pytest.approx(scores[0], rel=1e-2, abs=1e-2, nan_ok=True)


def test_a_run_of_two_processes_goes_on_with_one_and_with_two(exchange, scenes, tmp_path):
    options = [*words("seg", scenes, tmp_path), *exchange, "steps=6"]
    train(*options, "run_name=whole", processes=2)
    train(*options, "run_name=parts", "steps=2", processes=2)
    train(*options, "run_name=parts", "steps=4")
    train(*options, "run_name=parts", processes=2)
    whole, parts = ([line["loss"] for line in logged(tmp_path / name, "train")] for name in ("whole", "parts"))
    assert len(parts) == 6
    assert parts[:2] == pytest.approx(whole[:2], rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rounds_and_half_precision_train(precision, exchange, scenes, tmp_path):
    options = [f"precision={precision}", "system.max_per_process=1", "system.channels_last=true", "ema_decay=0.9"]
    train(*words("seg", scenes, tmp_path), *exchange, *options, processes=2)
    assert (tmp_path / "seg/results.json").exists()


def test_more_processes_than_gpus_are_refused_with_advice_that_is_accepted(scenes, tmp_path):
    count = torch.cuda.device_count() + 1
    options = [*words("seg", scenes, tmp_path), "system.device=cuda", f"batch_size={2 * count}"]
    done = launch.run("train", "--cfg", "configs/small/seg.yaml", *options, processes=count)
    assert done.codes == [2] * count
    assert f"{count} processes for {count - 1} GPUs" in done.err
    assert "add system.backend=gloo" in done.err
    train(*options, "system.backend=gloo", processes=count)
