"""Reading training images: ours, and a plain OpenCV pipeline: `python -m benchmarks.input_pipeline [--json FILE]`.

The peer does what mmsegmentation 0.x and mmdetection 2.x do, with OpenCV for everything: decode, resize, crop, flip,
distort colours, normalise as float32, pad, stack. Both read the same made-up JPEGs and PNGs by the recipes of ADE20K
(crops of 512 x 512) and COCO (1333 x 800; boxes). Ours also looks for damage in files and checks all labels.

"In one process": all work up to a normalised float32 batch, on one core. "Received from a worker": the rate at which
one worker process delivers batches, which ours normalises later, on the device.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.pairs import Row, Work, compare, publish
from benchmarks.segformer_step import positive
from datasets.loading import BatchLayout, training_loader
from errors import ArgumentParser, run_command
from experiment import load_experiment
from runtime.memory import keep_freed_memory

BATCH, IMAGES = 8, 32
GOALS = {"ade20k": 1.5, "coco": 1.6}
RECIPES = {"ade20k": "configs/seg_dysample.yaml", "coco": "configs/det_dysample.yaml"}
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
CLASSES, OBJECTS = 150, 7
Arrays = tuple[np.ndarray, ...]


# --- files -----------------------------------------------------------------------------------------------------------


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An image that takes about as many bytes as a photograph: coarse and fine structure, and noise."""
    coarse, fine = (
        cv2.resize(rng.integers(0, 256, (height // side, width // side, 3), dtype=np.uint8), (width, height))
        for side in (40, 6)
    )
    return np.clip(0.7 * coarse + 0.3 * fine + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def write_ade20k(root: Path) -> None:
    """Images of 512 x 683, and label maps of about 40 regions."""
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        for split in ("training", "validation") if index < 2 else ("training",):
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / f"images/{split}/{index:04}.jpg"), picture(rng, 512, 683))
            coarse = cv2.resize(rng.random((6, 8)), (683, 512), interpolation=cv2.INTER_CUBIC)
            classes = rng.integers(0, CLASSES + 1, 12)
            labels = classes[np.clip(coarse * 12, 0, 11).astype(int)].astype(np.uint8)
            cv2.imwrite(str(root / f"annotations/{split}/{index:04}.png"), labels)


def write_coco(root: Path) -> None:
    """Images of 480 x 640 with boxes."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(1, IMAGES + 1 if split == "train" else 3):
            name = f"{index:012}.jpg"
            cv2.imwrite(str(root / f"{split}2017/{name}"), picture(rng, 480, 640))
            images.append({"id": index, "file_name": name, "height": 480, "width": 640})
            for _ in range(OBJECTS):
                box = [*rng.uniform(0, 300, 2).round(2).tolist(), *rng.uniform(20, 170, 2).round(2).tolist()]
                annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": 1, "bbox": box})
                annotations[-1] |= {"area": box[2] * box[3], "iscrowd": 0}
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


# --- the peer --------------------------------------------------------------------------------------------------------


def read(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """The pixels of an image."""
    pixels = cv2.imread(str(path), flags)
    assert pixels is not None
    return pixels


def scaled(image: np.ndarray, long: float, short: float) -> tuple[int, int]:
    """(width, height) of an image that is to fit into (long, short)."""
    height, width = image.shape[:2]
    scale = min(long / max(height, width), short / min(height, width))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def convert(image: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
    """Grey levels times a factor, plus a shift."""
    return np.clip(image.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """PhotoMetricDistortion of mmsegmentation."""
    early = rng.random() < 0.5
    if rng.random() < 0.5:
        image = convert(image, shift=rng.uniform(-32, 32))
    if early and rng.random() < 0.5:
        image = convert(image, rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = convert(hsv[..., 1], rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not early and rng.random() < 0.5:
        image = convert(image, rng.uniform(0.5, 1.5))
    return image


def normalize(image: np.ndarray) -> np.ndarray:
    """mmcv.imnormalize: BGR to RGB, minus the mean, times one over the deviation, as float32."""
    result = image.astype(np.float32)
    cv2.cvtColor(result, cv2.COLOR_BGR2RGB, result)
    cv2.subtract(result, MEAN.reshape(1, -1), result)
    cv2.multiply(result, 1 / STD.reshape(1, -1), result)
    return result


class PlainADE20K(Dataset[Arrays]):
    """ADE20K as mmsegmentation 0.x reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Arrays:
        rng = np.random.default_rng()
        image = read(self.root / f"images/training/{index:04}.jpg")
        labels = read(self.root / f"annotations/training/{index:04}.png", cv2.IMREAD_UNCHANGED)
        labels[labels == 0] = 255
        labels -= 1
        labels[labels == 254] = 255
        factor = rng.uniform(0.5, 2)
        size = scaled(image, 2048 * factor, 512 * factor)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        window = self._window(labels, rng)
        for _ in range(10):
            names, counts = np.unique(labels[window], return_counts=True)
            counts = counts[names != 255]
            if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                break
            window = self._window(labels, rng)
        image, labels = image[window], labels[window]
        if rng.random() < 0.5:
            image, labels = np.flip(image, 1), np.flip(labels, 1)
        image = normalize(distort(image, rng))
        bottom, right = 512 - image.shape[0], 512 - image.shape[1]
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        labels = cv2.copyMakeBorder(labels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=255)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), labels.astype(np.int64)

    @staticmethod
    def _window(labels: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        top, left = (int(rng.integers(max(side - 512, 0) + 1)) for side in labels.shape)
        return slice(top, top + 512), slice(left, left + 512)


class PlainCOCO(Dataset[Arrays]):
    """COCO's boxes as mmdetection 2.x reads them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        content = json.loads((root / "annotations/instances_train2017.json").read_text())
        self.boxes = [
            [item["bbox"] for item in content["annotations"] if item["image_id"] == i + 1] for i in range(IMAGES)
        ]

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Arrays:
        rng = np.random.default_rng()
        image = read(self.root / f"train2017/{index + 1:012}.jpg")
        boxes = np.array(self.boxes[index], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        width, height = scaled(image, 1333, 800)
        boxes *= np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            image = np.flip(image, 1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        image = normalize(image)
        bottom, right = -image.shape[0] % 32, -image.shape[1] % 32
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        return np.ascontiguousarray(image.transpose(2, 0, 1)), boxes


# --- the comparison --------------------------------------------------------------------------------------------------


def theirs(dataset: Dataset[Arrays], workers: int) -> Iterator[list[Tensor]]:
    """Batches of the peer, without end."""
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, worker_init_fn=_one_thread)
    while True:
        yield from loader


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def pull(batches: Iterator[Any], finish: Callable[[Any], Any], count: int) -> Work:
    """The work of getting so many batches."""

    def work() -> None:
        for batch in islice(batches, count):
            finish(batch)

    return work


def measure(kind: str, root: Path, rounds: int) -> list[Row]:
    """Compare both on one data set, in one process and through a worker."""
    experiment = load_experiment(
        RECIPES[kind], [f"data.root={root}", *([] if kind == "ade20k" else ["data.classes={1: person}"])]
    )
    data = experiment.data
    dataset, layout = data.build("train"), BatchLayout(BATCH)
    peer = PlainADE20K(root) if kind == "ade20k" else PlainCOCO(root)
    rows = []
    for workers, where in ((0, "in one process"), (1, "received from a worker")):
        ours = training_loader(dataset, data.train_transforms, seed=0, layout=layout, size_divisor=32, workers=workers)
        finish = (lambda batch: batch.to("cpu")) if workers == 0 else (lambda batch: batch)
        count = 4 if workers == 0 else 24  # of which each worker has read two ahead
        work = f"{kind}: {count * BATCH} images {where}"
        done = compare(
            *(work, "a plain OpenCV pipeline"),
            *(pull(ours, finish, count), pull(theirs(peer, workers), lambda batch: batch, count)),
            goal=GOALS[kind],
            rounds=rounds,
        )
        rows.append(done)
    return rows


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.input_pipeline", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=9, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory()  # as train.py does
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, write in (("ade20k", write_ade20k), ("coco", write_coco)):
            root = Path(folder) / kind
            root.mkdir()
            write(root)
            rows += measure(kind, root, arguments.rounds)
    publish(rows, arguments.json, rounds=arguments.rounds, batch=BATCH, images=IMAGES)


if __name__ == "__main__":
    run_command(main)
