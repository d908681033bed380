"""Tiny runs of every task, what they leave behind, and what is done to them."""

import importlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import conftest
from tests.launch import Running, Sabotage, run
from tests.runs import test_runs_depth, test_runs_detection, test_runs_maskformer

# Evaluations after steps 4, 8 and 10, saves after 3, 4, 6, 8, 9 and 10, and a save after every evaluation.
LENGTH = ["steps=10", "evaluation.every=4", "evaluation.pictures=1", "logging.checkpoint_every=3"]
LENGTH += ["logging.every=1", "evaluation.batch_size=1"]


@dataclass(frozen=True)
class Task:
    """A demo made tiny: its name in configs/small, overrides, and its data's folder among the scenes."""

    demo: str
    overrides: list[str]
    data: str

    def words(self, scenes: Path, folder: Path, *more: str) -> list[str]:
        """The arguments of train.py for a run in `folder`, to which `more` overrides are added."""
        where = [f"data.root={scenes}/{self.data}", f"output_dir={folder}"]
        return ["--cfg", f"configs/small/{self.demo}.yaml", *self.overrides, *where, *LENGTH, *more]


ADE = "ADEChallengeData2016"
DETECTOR = [
    *test_runs_detection.TINY,
    "model.rpn.before_nms_train=40",
    "model.rpn.before_nms_test=40",
    "model.rpn.proposals=20",
    "model.box_head.samples=16",
]
TASKS = {
    "segmentation": Task("seg", [*conftest.TINY, "ema_decay=0.9"], ADE),
    "MaskFormer": Task("maskformer", test_runs_maskformer.TINY, ADE),
    "detection": Task("det", [*DETECTOR, "precision=fp16"], "coco"),
    "instance": Task("inst", [*DETECTOR, "ema_decay=0.9"], "coco"),
    "panoptic": Task("pan", DETECTOR, "coco"),
    "depth": Task("depth", test_runs_depth.TINY, "nyu"),
}


# --- what a run leaves behind ----------------------------------------------------------------------------------------


def undisturbed(scenes: Path, factory: pytest.TempPathFactory, more: dict[int, list[str]]) -> Callable[[int], dict]:
    """What segmentation runs by so many processes, with `more` overrides for each number, leave; each is run once."""

    @cache
    def by(processes: int) -> dict[str, Any]:
        folder = factory.mktemp("whole")
        words = TASKS["segmentation"].words(scenes, folder, *more[processes])
        assert run("train", *words, processes=processes).codes == [0] * processes
        return left_by(folder / "seg")

    return by


def left_by(folder: Path) -> dict[str, Any]:
    """All that must be equal between equal runs in different places: checkpoints, logged numbers, result, pictures."""
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        content = torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)
        content["config"] = _without_place(content["config"])
        found[name] = content
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["log"] = [_without_times(line) for line in lines]
    for name in ("results", "results_last"):
        result = json.loads((folder / f"{name}.json").read_text())
        result["config"], result["checkpoint"] = _without_place(result["config"]), None
        found[name] = _without_times(result)
    found["pictures"] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("pictures/*/*.png")}
    return found


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Where two nests of containers, tensors and values differ, bit for bit."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)} and {type(right)}"]
    if isinstance(left, dict):
        if list(left) != list(right):
            return [f"{where}: keys {list(left)} and {list(right)}"]
        return [line for key in left for line in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, list):
        if len(left) != len(right):
            return [f"{where}: {len(left)} and {len(right)} items"]
        return [line for i in range(len(left)) for line in differences(left[i], right[i], f"{where}.{i}")]
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
    else:
        same = left == right or (left != left and right != right)
    return [] if same else [f"{where} differs"]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _without_place(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("output_dir", "system", "logging")}


def _without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in record.items()
        if key not in ("seconds", "images_per_second", "waiting_for_data", "memory_gb", "environment")
    }


# --- what is done to a run -------------------------------------------------------------------------------------------


def die(number: int = signal.SIGKILL) -> None:
    """Send this process a signal: kill -9 by default."""
    os.kill(os.getpid(), number)


def replace(place: str, make: Callable[[Any], Any]) -> None:
    """Put make(what is there) in the place of an attribute, as in `runtime.checkpoint:torch.save`."""
    module, _, dotted = place.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = dotted.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, make(getattr(owner, name)))


def at_call(place: str, number: int, act: Callable[[], None], after: bool = False, rank: int | None = None) -> None:
    """Have the number-th call (from 1) of a function do `act` first, or afterwards. rank: in that process alone."""
    if rank is not None and os.environ.get("RANK", "0") != str(rank):
        return
    calls = 0

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*values: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            due = calls == number
            if due and not after:
                act()
            answer = original(*values, **named)
            if due and after:
                act()
            return answer

        return wrapper

    replace(place, make)


def die_at(place: str, number: int, after: bool = False, signal_number: int = signal.SIGKILL) -> Sabotage:
    """The process gets a signal, by default kill -9, at that call."""
    return partial(at_call, place, number, partial(die, signal_number), after)


def die_in_the_middle_of_a_save(number: int) -> None:
    """kill -9 when half of the number-th checkpoint is in its file."""
    saves = 0

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def save(state: Any, path: Path) -> None:
            nonlocal saves
            saves += 1
            if saves == number:
                buffer = io.BytesIO()
                original(state, buffer)
                path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
                die()
            original(state, path)

        return save

    replace("runtime.checkpoint:torch.save", make)


def die_in_the_middle_of_a_line(number: int) -> None:
    """kill -9 when half of the number-th line of the log is in its file."""
    lines = 0

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def write(log: Any, section: str, record: dict[str, float]) -> None:
            nonlocal lines
            lines += 1
            if lines == number:
                with log._lines.open("a") as file:
                    file.write(json.dumps({"step": log.step, "section": section, **record})[:40])
                die()
            original(log, section, record)

        return write

    replace("runtime.log:RunLog._write", make)


IN_EVALUATION = "datasets.loading:_EvaluationReader.__call__"


def record_reads(file: str) -> None:
    """Note the index of every training image that is read in a file, also in workers."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(reader: Any, key: Any) -> Any:
            with open(file, "a") as lines:
                lines.write(f"{key.epoch} {key.index}\n")
            return original(reader, key)

        return sample

    replace("datasets.loading:_TrainingReader._image", make)


def lower_timeout(seconds: float) -> None:
    """Let collectives of a step give up after so long."""
    replace("runtime.distributed:TIMEOUT", lambda _: timedelta(seconds=seconds))


def sleep_at(place: str, number: int, seconds: float, rank: int | None = None) -> Sabotage:
    """That call takes longer."""
    return partial(at_call, place, number, partial(time.sleep, seconds), False, rank)


def runs_until(running: Running, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when `condition` holds. AssertionError if the run ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert any(process.exitcode is None for process in running.processes), running.wait()
        assert time.monotonic() < deadline, running.out()
        time.sleep(0.01)


def record_steps(folder: str) -> None:
    """Note the step, the rank and the images of every optimiser step, a line each, in the file `steps`."""

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def add(log: Any, step: int, losses: Any, failed: Any, image_ids: list[str]) -> None:
            with open(f"{folder}/steps", "a") as lines:
                lines.write(" ".join([str(step), os.environ.get("RANK", "0"), *image_ids]) + "\n")
            original(log, step, losses, failed, image_ids)

        return add

    replace("runtime.log:RunLog.add_losses", make)


def kill_worker(after: int, place: str = "train:set_learning_rate", rank: int | None = None) -> None:
    """A data worker of this process gets kill -9 when the function is called for the after-th time."""
    import multiprocessing

    def kill() -> None:
        multiprocessing.active_children()[-1].kill()

    at_call(place, after, kill, False, rank)


def spoil_loss(number: int, rank: int | None = None) -> None:
    """The loss of the number-th forward pass is NaN."""
    if rank is not None and os.environ.get("RANK", "0") != str(rank):
        return
    calls = 0

    def make(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def loss(*values: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return original(*values) * (float("nan") if calls == number else 1.0)

        return loss

    replace("models.layers.pixel_losses:pixel_cross_entropy", make)


def spoil_weights(number: int) -> None:
    """The number-th step of AdamW leaves an infinite weight, after a loss that was finite."""
    calls = 0

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(optimizer: Any, *values: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            answer = original(optimizer, *values, **named)
            if calls == number:
                with torch.no_grad():
                    optimizer.param_groups[0]["params"][0].view(-1)[0] = float("inf")
            return answer

        return step

    replace("torch.optim:AdamW.step", make)
