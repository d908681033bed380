"""Exact evaluation: each image counts once, however many images, processes and images at a time there are."""

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from datasets.base import DenseDataset, Sample, Survey
from datasets.scenes import write_scenes
from eval import score
from experiment import Experiment, load_experiment
from models.base import DenseModel
from runtime.distributed import Processes, start_processes
from runtime.shutdown import exit_together
from structures import IGNORE, Batch, Instances, Panoptic, Prediction, Target
from tests.conftest import read
from tests.faults.tasks import LENGTH, TASKS
from tests.launch import run

CHAPTER = "Exact evaluation"
IMAGES = 9


class First(DenseDataset):
    """The first images of a data set."""

    def __init__(self, dataset: DenseDataset, count: int) -> None:
        self.dataset, self.count = dataset, count
        self.info, self.unusable, self.protocol = dataset.info, dataset.unusable, dataset.protocol

    def __len__(self) -> int:
        return self.count

    def image_id(self, index: int) -> str:
        return str(index)

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        return Survey("images", {"all": self.count})

    def files(self, index: int) -> tuple[Path, ...]:
        return (Path(str(index)),)

    def load(self, index: int) -> Sample:
        assert index < self.count
        return self.dataset.load(index)

    def target(self, index: int) -> Target:
        return self.dataset.target(index)


class StandIn(DenseModel):
    """Says what is true, with errors drawn from the image's pixels: those of another image would give other numbers."""

    def outputs(self, images: Tensor) -> dict[str, Any]:
        return {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        return {}

    def predict(self, batch: Batch) -> list[Prediction]:
        found = []
        for image, (height, width), target in zip(batch.images, batch.sizes, batch.targets, strict=True):
            pixels = image[:, :height, :width].contiguous().numpy().tobytes()
            seed = int.from_bytes(hashlib.sha256(pixels).digest()[:8])
            found.append(wrong(target, np.random.default_rng(seed)))
        return found


def wrong(target: Target, rng: np.random.Generator) -> Prediction:
    """A target with some errors."""
    noise = torch.from_numpy(rng.random(target.size, np.float32))
    if target.semantic is not None:
        known = target.semantic.where(target.semantic != IGNORE, 0)
        return Prediction(semantic=known.where(noise > 0.2, (known + 1) % 15))
    if target.depth is not None:
        return Prediction(depth=target.depth * (0.7 + 0.6 * noise) + 0.1)
    if target.panoptic is not None:
        ids = target.panoptic.ids.clone()
        first = rng.integers(target.size[0] // 2)
        ids[first : first + target.size[0] // 3] = 0
        left = set(ids.unique().tolist()) - {0}
        return Prediction(panoptic=Panoptic(ids, {key: target.panoptic.labels[key] for key in sorted(left)}))
    assert target.instances is not None
    return Prediction(instances=_moved(target.instances, target, rng))


def _moved(true: Instances, target: Target, rng: np.random.Generator) -> Instances:
    kept = torch.from_numpy(rng.random(len(true.labels)) < 0.8)
    boxes = (true.boxes + torch.from_numpy(rng.normal(0, 1.5, true.boxes.shape)).float()).clamp(min=0)[kept]
    rles = None
    if true.rles is not None:
        masks = [coco_mask.decode({"size": list(target.size), "counts": counts}) for counts in true.rles]
        rolled = [np.asfortranarray(np.roll(mask, rng.integers(3), axis=1)) for mask in masks]
        rles = [coco_mask.encode(mask)["counts"] for mask, keep in zip(rolled, kept, strict=True) if keep]
    # Few different scores: many are equal.
    scores = torch.from_numpy(rng.integers(1, 6, len(boxes)) / 5).float()
    return Instances(boxes, true.labels[kept], scores=scores, rles=rles)


@exit_together()
def main() -> None:
    """In every process: file to write, root of the scenes, tasks, whether networks predict, numbers of images, batches.

    The file gets, by task, number of images and batch size, what each process found.
    """
    out, root, *lists = sys.argv[1:]
    tasks, networks, counts, batches = map(json.loads, lists)
    torch.set_num_threads(1)
    processes = start_processes("cpu")
    found = {}
    for name in tasks:
        task = TASKS[name]
        options = [*task.overrides, *LENGTH, f"data.root={root}/{task.data}"]
        experiment = load_experiment(f"configs/small/{task.demo}.yaml", options)
        dataset = experiment.data.build("val")
        model = experiment.build_model() if networks else StandIn()
        for count, batch_size in itertools.product(counts, batches):
            folder = Path(f"{out} {name} {count} {batch_size}")
            results = scored(model, First(dataset, count), experiment, batch_size, processes, folder)
            found[f"{name}, {count} images, {batch_size} at a time"] = processes.collect(results)
            if processes.is_main:
                shutil.rmtree(folder)
    if processes.is_main:
        Path(out).write_text(json.dumps(found))


def scored(
    model: DenseModel,
    dataset: DenseDataset,
    experiment: Experiment,
    batch_size: int,
    processes: Processes,
    folder: Path,
) -> dict[str, str]:
    """The numbers of one evaluation and its prediction files, written to `folder`; as text, to compare all digits."""
    experiment = experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update={"batch_size": batch_size})}
    )
    result = score(model, dataset, experiment, processes, experiment.data.prediction_files(folder))
    processes.wait()
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    kept = {key: result[key] for key in ("metrics", "per_class", "num_images", "protocol")}
    return {"numbers": json.dumps(kept), "files": json.dumps(files)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nine")
    write_scenes(folder, train=1, val=IMAGES, size=(48, 64), workers=1)
    return folder


def evaluated(
    root: Path, path: Path, tasks: list[str], networks: bool, counts: list[int], batches: list[int], processes: int
) -> dict[str, Any]:
    """What `main` writes to a file at `path`, in so many processes."""
    words = [path, root, *map(json.dumps, (tasks, networks, counts, batches))]
    done = run("tests.faults.test_exactness", *words, processes=processes, seconds=600)
    assert done.codes == [0] * processes, done.err
    return read(path)


def one_at_a_time(setting: str) -> str:
    return f"{setting.rpartition(',')[0]}, 1 at a time"


def test_each_image_counts_once(root, tmp_path, every, tally):
    tasks = [name for name in TASKS if name != "MaskFormer"]  # with given predictions it is segmentation
    counts = list(range(1, IMAGES + 1)) if every else [5]
    truth = evaluated(root, tmp_path / "truth", tasks, False, counts, [1], 1)
    tried, wrong = 0, []
    for processes in (1, 2, 3, 4) if every else (3,):
        for setting, results in evaluated(root, tmp_path / "found", tasks, False, counts, [1, 2, 3], processes).items():
            tried += 1
            if results != truth[one_at_a_time(setting)] * processes:
                wrong.append(f"{processes} processes, {setting}")
    what = "1 to 9 images x 1 to 4 processes x 1 to 3 images at a time x all kinds of data, with given predictions; "
    what += "numbers and prediction files equal those of one process and one image at a time to the last digit"
    tally(CHAPTER, what, tried=tried, lost=len(wrong))
    assert not wrong


def test_networks_score_the_same(root, tmp_path, every, tally):
    tasks = list(TASKS) if every else ["MaskFormer"]
    truth = evaluated(root, tmp_path / "truth", tasks, True, [IMAGES], [1], 1)
    exact, near = [], []
    for processes in (1, 2, 3, 4) if every else (2,):
        found = evaluated(root, tmp_path / "found", tasks, True, [IMAGES], [1, 2, 3], processes)
        for setting, results in found.items():
            expected = truth[one_at_a_time(setting)]
            if setting == one_at_a_time(setting):
                exact.append(results == expected * processes)
            else:  # a network rounds differently with other images beside one
                numbers, right = (json.loads(some[0]["numbers"])["metrics"] for some in (results, expected))
                near.append(numbers == pytest.approx(right, rel=1e-4, abs=1e-2, nan_ok=True))
    what = "1 to 4 processes x all tasks and MaskFormer, predicted by networks one image at a time; numbers and "
    what += "prediction files equal those of one process to the last digit"
    tally(CHAPTER, what, tried=len(exact), lost=exact.count(False))
    what = (
        "1 to 4 processes x 2 or 3 images at a time x all tasks and MaskFormer, predicted by networks; numbers equal "
    )
    what += "those of one process and one image at a time within the networks' rounding"
    tally(CHAPTER, what, tried=len(near), lost=near.count(False))
    assert all(exact)
    assert all(near)
