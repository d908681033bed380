"""A training step of models with fixed shapes makes the host wait for the device nowhere."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train
from benchmarks.gpu import training_step
from datasets.loading import next_batches
from experiment import load_experiment
from runtime.distributed import start_processes
from tests.conftest import ROOT, SHORT

# Of PyTorch's operators, those that wait for a CUDA device: their result is a number, or its size is.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "is_nonzero"}


class Waits(TorchDispatchMode):
    """Counts operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = [one for one in torch.utils._pytree.tree_leaves(args) if isinstance(one, torch.Tensor)]
        by_mask = name in ("index", "index_put", "index_put_") and any(one.dtype == torch.bool for one in masks[1:])
        if name in WAITING or by_mask:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def options_of(task, scenes, tmp_path):
    folder = {"seg": "ADEChallengeData2016", "depth": "nyu"}[task]
    size = [f"data.train_transforms.{index}.size=[32, 64]" for index in ((0, 3) if task == "seg" else (0,))]
    return [*SHORT, *size, f"data.root={scenes}/{folder}", f"output_dir={tmp_path}"]


def make_run(task, scenes, tmp_path, monkeypatch, device="cpu"):
    monkeypatch.chdir(ROOT)
    options = [*options_of(task, scenes, tmp_path), f"system.device={device}"]
    return train.Run(load_experiment(f"configs/small/{task}.yaml", options).in_steps(), start_processes(device))


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_no_operation_of_a_step_asks_for_a_number(task, scenes, tmp_path, monkeypatch):
    run = make_run(task, scenes, tmp_path, monkeypatch)
    first, second = next_batches(run.batches, run.layout.accumulation)[0], next_batches(run.batches, 1)[0]
    train.train_step(run, first)  # what is kept for all steps is made in the first
    with Waits() as waits:
        train.train_step(run, second)
    assert not waits.found


def test_the_benchmark_of_steps_takes_any_setting(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(training_step, "start_processes", lambda _: start_processes("cpu"))
    options = [*options_of("depth", scenes, tmp_path), "system.channels_last=true"]
    found = training_step.measure("configs/small/depth.yaml", 1, options)
    assert found["ms"] > 0
    assert found["waits"] == 0


def test_waits_are_found():
    with Waits() as waits:
        x = torch.arange(3)
        x[x > 1].sum().item()
    assert waits.found == {"index": 1, "_local_scalar_dense": 1}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("task", ["seg", "depth"])
def test_cuda_is_not_waited_for(task, scenes, tmp_path, monkeypatch):
    run = make_run(task, scenes, tmp_path, monkeypatch, "cuda")
    first, second = next_batches(run.batches, run.layout.accumulation)[0], next_batches(run.batches, 1)[0]
    train.train_step(run, first)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.train_step(run, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
