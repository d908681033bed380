"""How far a reader has to follow one training step."""

import sys
from pathlib import Path

import pytest
import torch

import train
from experiment import load_experiment
from runtime.distributed import start_processes
from tests.conftest import ROOT, SHORT


def files_of_second_step(monkeypatch, cfg: str, options: list[str]) -> set[str]:
    """The files of this repository that run between the reading of the second step's images and that of the third's."""
    crossed: set[Path] = set()
    reading = train.next_batches
    calls = 0

    def record(frame, event, _):
        if event == "call":
            crossed.add(Path(frame.f_code.co_filename))

    def next_batches(*values):
        nonlocal calls
        calls += 1
        sys.setprofile(None)
        answer = reading(*values)
        if calls == 2:
            sys.setprofile(record)
        return answer

    monkeypatch.setattr(train, "next_batches", next_batches)
    short = [*options, "steps=3", "evaluation.every=3", "logging.every=3", "logging.checkpoint_every=3"]
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        train.train(load_experiment(cfg, [*SHORT, *short]), start_processes("cpu"))
    assert calls == 3
    inside = {path.relative_to(ROOT) for path in crossed if path.is_relative_to(ROOT)}
    return {str(path) for path in inside if path.parts[0] not in (".venv", "tests")}


@pytest.mark.parametrize(("task", "most"), [("seg", 12), ("det", 14)])
def test_a_step_crosses_few_files(task, most, tiny, scenes, tmp_path, monkeypatch):
    if task == "seg":
        options = tiny
    else:
        small = ["model.rpn.before_nms_train=40", "model.rpn.proposals=20", "model.box_head.samples=16"]
        size = ["data.train_transforms.0={long: 64, short: 48}", "data.train_transforms.1.size=[48, 64]"]
        where = [f"data.root={scenes}/coco", f"output_dir={tmp_path}", "batch_size=2"]
        backbone = "model.backbone={name: resnet50, frozen: 0, weights: null}"
        options = [backbone, "optimizer.rules=[]", *small, *size, *where]
    # Compiled code stands in for PyTorch's operators in upsamplers/sampling.py, as Triton's does on CUDA: a reader may
    # leave both out.
    monkeypatch.setattr("upsamplers.sampling.has_kernels", lambda *_: False)
    torch.manual_seed(0)
    files = files_of_second_step(monkeypatch, str(ROOT / f"configs/small/{task}.yaml"), options)
    assert {"train.py", "upsamplers/dysample.py"} <= files
    assert len(files) <= most, " ".join(sorted(files))
