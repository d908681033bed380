"""What the tests share: small embedded scenes, and a SegFormer that trains on them in seconds."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.scenes import SCENE_CLASSES, write_scenes
from tests import launch
from upsamplers import NAMES

ROOT = launch.ROOT
# No test fetches anything, or finds what a user of this machine has fetched.
os.environ["DENSEUP_MIRROR"] = "http://127.0.0.1:9"
os.environ["DENSEUP_CACHE"] = tempfile.mkdtemp(prefix="denseup-cache-")
atexit.register(shutil.rmtree, os.environ["DENSEUP_CACHE"], ignore_errors=True)
SHORT = [
    "steps=6",
    "batch_size=4",
    "evaluation.every=3",
    "evaluation.pictures=1",
    "logging.every=1",
    "logging.checkpoint_every=2",
    "system.workers=0",
    "system.device=cpu",
]
TINY = [
    "model.backbone.channels=[8, 16, 40, 64]",
    "model.backbone.depths=[1, 1, 1, 1]",
    "model.channels=16",
    f"data.classes=[{', '.join(SCENE_CLASSES)}]",
    "data.train_transforms.0.size=[32, 64]",
    "data.train_transforms.3.size=[32, 64]",
    *SHORT,
]


def some(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Parameters of a test: `fast` are tried in every run of the suite, the rest in `make test-slow`."""
    return [pytest.param(value, marks=() if value in fast else pytest.mark.slow) for value in values]


# For what SegFormer's tests try with every upsampler: without weights, with kernels of its own, with guides.
UPSAMPLERS = some(NAMES, "nearest", "carafe", "indexnet", "fade", "dysample+", "freqfusion")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """The root of 10 training and 5 validation scenes of 48 x 64 pixels."""
    root = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(root, train=10, val=5, size=(48, 64), workers=1)
    return root


@pytest.fixture
def tiny(scenes, tmp_path) -> list[str]:
    """Overrides of configs/small/seg.yaml that make a run tiny; it goes to `tmp_path`."""
    return [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]


@pytest.fixture
def here(monkeypatch):
    """Call a command of the repository in this process: its module, then its arguments. One thread, as `run` has."""
    monkeypatch.chdir(ROOT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(module: str, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", [module, *map(str, words), "system.reuse_memory=false"])
        launch.main_of(module)()

    yield call
    torch.set_num_threads(threads)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def command(*words: object, processes: int = 1) -> list[str]:
    """The command line of a script of the repository (`train.py ...`) or a module (`-m tools.score ...`)."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, *map(str, words)]


def run(*words: object, processes: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as a user would, from the repository's root.

    That takes seconds more than tests.launch, and is for what a forked process cannot show.
    """
    return subprocess.run(
        command(*words, processes=processes),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train(*overrides: str, cfg: str = "configs/small/seg.yaml", processes: int = 1) -> str:
    """Train to the end in forked processes, expect success, and give what was printed."""
    done = launch.run("train", "--cfg", cfg, *overrides, processes=processes, seconds=300)
    assert done.codes == [0] * processes, done.err
    return done.out


def logged(folder: Path, section: str) -> list[dict]:
    """The lines of one section of a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["section"] == section]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in a run's last checkpoint that is a tensor of the model or the optimiser."""
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    tensors = {f"model.{name}": value for name, value in state["model"].items()}
    for index, values in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return tensors


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def check_two_processes(cfg: str, options: list[str], folder: Path, here: Callable[..., None]) -> None:
    """Assert that a run by two processes learns like one, and that both score the same.

    Images are predicted one at a time: each then passes through the same operations on tensors of the same shapes in
    whichever process it is, and its prediction is the same to the last bit. Several at a time would be others in each
    process, and matrix products of other sizes may round differently.
    """
    here("train", "--cfg", cfg, *options, "run_name=one")
    train(*options, "run_name=two", cfg=cfg, processes=2)
    one, two = (logged(folder / name, "train") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-3)
    arguments = ["--checkpoint", folder / "one", "evaluation.batch_size=1", "--json"]
    here("eval", *arguments, folder / "1.json")
    done = launch.run("eval", *arguments, folder / "2.json", processes=2)
    assert done.codes == [0, 0], done.err
    first, second = (read(folder / f"{count}.json") for count in (1, 2))
    assert first["metrics"] == second["metrics"]
    assert first["per_class"] == second["per_class"]
