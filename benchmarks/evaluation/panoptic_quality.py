"""Speed of panoptic quality against panopticapi: `python -m benchmarks.evaluation.panoptic_quality`.

Random maps of 640 x 480 pixels and 133 classes. They have irregular segments, on average about 12 true and 16 predicted
ones, which is somewhat more than in COCO. First both get the ids of all pixels in memory, then both read them from PNGs
and check them. The peer is one process of `pip install git+https://github.com/cocodataset/panopticapi`. The numbers
must be equal.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.evaluation.command import run
from benchmarks.pairs import Row, compare
from datasets.panoptic.categories import Category
from datasets.panoptic.dataset import COCOPanopticConfig
from datasets.panoptic.ids import encode_ids
from datasets.panoptic.predictions import PanopticFiles
from metrics.panoptic_quality import PanopticQuality
from structures import Panoptic, Prediction, Target

HEIGHT, WIDTH = 480, 640
CLASSES, THINGS = 133, 80
PEER = "panopticapi"


def random_map(rng: np.random.Generator) -> Panoptic:
    """A random segmentation: each pixel gets the segment of the nearest of several random points; the first is void.

    Noise in the distances makes the borders irregular.
    """
    segments = int(rng.integers(5, 19))
    coarse = rng.standard_normal((HEIGHT // 8, WIDTH // 8)).astype(np.float32)
    noise = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    points = rng.random((segments + 1, 2)) * [HEIGHT, WIDTH]
    rows, columns = np.indices((HEIGHT, WIDTH), np.float32, sparse=True)
    distances = [np.hypot(rows - y + 12 * noise, columns - x - 12 * noise) for y, x in points]
    segment_ids = np.concatenate([[0], rng.choice(2**24 - 1, segments, replace=False) + 1]).astype(np.int32)
    ids = segment_ids[np.argmin(distances, axis=0)]
    labels = {segment: int(rng.integers(CLASSES)) for segment in np.unique(ids).tolist() if segment}
    return Panoptic(torch.from_numpy(ids), labels)


def random_pair(rng: np.random.Generator) -> tuple[Panoptic, Panoptic]:
    """A true and a predicted map. The left three quarters of the prediction are the slightly shifted truth."""
    true, found = random_map(rng), random_map(rng)
    limit = WIDTH * 3 // 4
    found.ids[:, :limit] = true.ids.roll((3, 3), dims=(0, 1))[:, :limit]
    labels = true.labels | found.labels
    return true, Panoptic(found.ids, {segment: labels[segment] for segment in found.ids.unique().tolist() if segment})


def by_ours(images: Iterable[tuple[Target, Prediction]]) -> list[float]:
    """PQ, SQ and RQ of all classes, things and stuff in percent."""
    metric = PanopticQuality(("",) * CLASSES, tuple(label < THINGS for label in range(CLASSES)))
    for target, prediction in images:
        metric.update([prediction], [target])
    return list(metric.compute().values())


def by_ours_from_files(folder: Path) -> Callable[[], list[float]]:
    """A function that does the same from PNGs. The JSON files are read only once."""
    classes = {label: Category(name=str(label), isthing=label < THINGS) for label in range(CLASSES)}
    options: Any = {"root": folder, "classes": classes, "val_annotations": "true.json"}
    transforms: Any = {key: ["normalize"] for key in ("train_transforms", "test_transforms")}
    dataset = COCOPanopticConfig(**options, **transforms).build("val", annotations_only=True)
    files = PanopticFiles(folder / "found.json", tuple(range(CLASSES)))

    def work() -> list[float]:
        targets = (dataset.target(index) for index in range(len(dataset)))
        return by_ours((target, files.read(target)) for target in targets)

    return work


def record(name: int, panoptic: Panoptic) -> dict[str, Any]:
    """An annotation as in COCO's files."""
    segments = [{"id": segment, "category_id": label, "iscrowd": 0} for segment, label in panoptic.labels.items()]
    ids = panoptic.ids.numpy()
    areas = dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True)), strict=True))
    segments = [segment | {"area": areas[segment["id"]]} for segment in segments]
    return {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}


def write(folder: Path, pairs: list[tuple[Panoptic, Panoptic]]) -> None:
    """Write the maps as COCO's annotations and results."""
    categories = [{"id": label, "name": str(label), "isthing": int(label < THINGS)} for label in range(CLASSES)]
    images = [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(len(pairs))]
    for side, name in enumerate(("true", "found")):
        (folder / name).mkdir()
        for number, pair in enumerate(pairs):
            (folder / name / f"{number}.png").write_bytes(encode_ids(pair[side].ids.numpy()))
        annotations = [record(number, pair[side]) for number, pair in enumerate(pairs)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        (folder / f"{name}.json").write_text(json.dumps(content))


def by_panopticapi(folder: Path, pairs: list[tuple[Panoptic, Panoptic]], from_files: bool) -> Any:
    """A function that does the same by panopticapi; None if it is not installed.

    from_files: read the PNGs; otherwise its reader is replaced by a look at ids in memory.
    """
    try:
        from panopticapi import evaluation
    except ImportError:
        return None
    records = [json.loads((folder / f"{name}.json").read_text())["annotations"] for name in ("true", "found")]
    categories = {label: {"isthing": int(label < THINGS)} for label in range(CLASSES)}
    reading = {"Image": evaluation.Image, "rgb2id": evaluation.rgb2id}
    if not from_files:
        maps = {
            str(folder / name / f"{number}.png"): pair[side].ids.numpy().astype(np.uint32)
            for side, name in enumerate(("true", "found"))
            for number, pair in enumerate(pairs)
        }
        reading = {"Image": SimpleNamespace(open=maps.__getitem__), "rgb2id": lambda ids: ids}

    def work() -> list[float]:
        vars(evaluation).update(reading)
        with redirect_stdout(StringIO()):
            stat = evaluation.pq_compute_single_core(
                0, list(zip(*records, strict=True)), str(folder / "true"), str(folder / "found"), categories
            )
        groups = [stat.pq_average(categories, isthing=isthing)[0] for isthing in (None, True, False)]
        return [100 * group[name] for group in groups for name in ("pq", "sq", "rq")]

    return work


def measure(number: int, rounds: int) -> list[Row]:
    """Compare both. Raises ValueError if the numbers differ."""
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(number)]
    images = [
        (Target(str(name), (HEIGHT, WIDTH), panoptic=true), Prediction(panoptic=found))
        for name, (true, found) in enumerate(pairs)
    ]
    with TemporaryDirectory() as folder:
        write(Path(folder), pairs)
        rows = []
        for work, from_files, goal in (("PQ", False, 3), ("PQ with the reading of PNGs", True, 2)):
            ours = by_ours_from_files(Path(folder)) if from_files else lambda: by_ours(images)
            theirs = by_panopticapi(Path(folder), pairs, from_files)
            if theirs and not np.allclose(ours(), theirs(), rtol=1e-12):
                raise ValueError(f"{work}: the numbers differ")
            rows.append(compare(work, PEER, ours, theirs, goal=goal, rounds=rounds))
    return rows


def main() -> None:
    """Run the command."""
    run(__doc__, measure, images=50, rounds=5)


if __name__ == "__main__":
    main()
