"""Bounded memory: whole processes stay below 2 GB on large images, and do not grow over a long training."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from config import dump
from datasets.panoptic.dataset import CATEGORIES as COCO
from datasets.panoptic.ids import encode_ids
from experiment import load_experiment
from inference.maps import KEPT
from tests.conftest import ROOT, read
from tests.faults.tasks import TASKS, replace

CHAPTER = "Bounded memory"
LIMIT = 2 * 10**9  # bytes, of the whole process
SIDE = 2100
LARGE = (4000, 5000)
OBJECTS = 100
IMAGES, STEPS, WARM = 118_000, 2000, 500
GROWTH = 5 * 10**6  # bytes

# Not forked: a forked process has part of the libraries' memory without having it resident.
PEAK = """
import atexit, importlib, re, sys
from errors import run_command
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
atexit.register(lambda: print("peak", peak()))
sys.argv = sys.argv[1:]
run_command(importlib.import_module(sys.argv[0]).main)
"""


RECORDED = """
import sys
from errors import run_command
from tests.faults.test_memory import record_memory
import train
record_memory(sys.argv.pop(1))
run_command(train.main)
"""


def execute(program: str, *words: object) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_image(path: Path, size: tuple[int, int]) -> None:
    """Smooth colours with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def cells(size: tuple[int, int], count: int) -> np.ndarray:
    """[H, W] int32: `count` x `count` rectangles, numbered from 0."""
    rows, columns = (np.arange(length) * count // length for length in size)
    return (rows[:, None] * count + columns).astype(np.int32)


def ade(root: Path) -> Path:
    write_image(root / "images/validation/a.jpg", (SIDE, SIDE))
    (root / "annotations/validation").mkdir(parents=True)
    cv2.imwrite(str(root / "annotations/validation/a.png"), (cells((SIDE, SIDE), 16) % 151).astype(np.uint8))
    return root


def coco(root: Path) -> Path:
    """One image with 100 objects, as instances and as segments."""
    ids = cells(LARGE, 10) + 1
    categories = [{"id": key, **category.model_dump()} for key, category in COCO.items()]
    things = [category["id"] for category in categories if category["isthing"]]
    image = {"id": 1, "file_name": "1.jpg", "height": LARGE[0], "width": LARGE[1]}
    write_image(root / "val2017/1.jpg", LARGE)
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    (root / "annotations/panoptic_val2017/1.png").write_bytes(encode_ids(ids))
    objects = []
    for number in range(1, 101):
        row, column = divmod(number - 1, 10)
        box = [column * LARGE[1] // 10, row * LARGE[0] // 10, LARGE[1] // 10, LARGE[0] // 10]
        (rle,) = coco_mask.frPyObjects(np.array([box], np.float64), *LARGE)
        category = things[number % len(things)]
        segmentation = {"size": list(LARGE), "counts": rle["counts"].decode()}
        common = {"id": number, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        objects.append({**common, "image_id": 1, "segmentation": segmentation})
    segments = [{key: value for key, value in item.items() if key != "segmentation"} for item in objects]
    names = [category for category in categories if category["isthing"]]
    for file, annotations, of in (
        ("instances", objects, names),
        ("panoptic", [{"image_id": 1, "file_name": "1.png", "segments_info": segments}], categories),
    ):
        content = {"images": [image], "annotations": annotations, "categories": of}
        (root / f"annotations/{file}_val2017.json").write_text(json.dumps(content))
    return root


def nyu(root: Path) -> Path:
    write_image(root / "a/rgb.jpg", (SIDE, SIDE))
    depth = np.broadcast_to(np.linspace(800, 9000, SIDE), (SIDE, SIDE)).astype(np.uint16)
    cv2.imwrite(str(root / "a/depth.png"), depth)
    (root / "nyu_test.txt").write_text("a/rgb.jpg a/depth.png 518.8579")
    return root


@dataclass(frozen=True)
class Case:
    """A config with overrides, what writes its data to a folder, and what the report calls it."""

    what: str
    cfg: str
    write: Callable[[Path], Path]
    options: tuple[str, ...] = ()


ANCHORS = "model.rpn.anchors.scale=16"  # large boxes
WHOLE = "data.test_transforms=[normalize]"
FIT = "data.test_transforms=[{name: resize_fit, long: 1333, short: 800}, normalize]"
ALL_CLASSES, ALL_FOUND = "data.classes=null", "model.box_head.min_score=0"
ALL_KEPT = "model.fusion={max_overlap: 1, min_stuff_area: 0}"
SEMANTIC, MASKS = "2100 x 2100 pixels in 150 classes", "100 masks of 4000 x 5000 pixels"
SEGMENTS = "100 segments of 4000 x 5000 pixels"
CASES = {
    "instance": Case(f"{MASKS}, small Mask R-CNN", "demo/inst", coco, (ALL_CLASSES, ALL_FOUND, FIT, ANCHORS)),
    "segmentation": Case(f"{SEMANTIC}, SegFormer-B1", "seg_dysample", ade),
    "segmentation whole": Case(f"{SEMANTIC}, SegFormer-B1 on the whole image", "seg_dysample", ade, (WHOLE,)),
    "bilinear whole": Case(f"{SEMANTIC}, SegFormer-B1 (bilinear) on the whole image", "seg_bilinear", ade, (WHOLE,)),
    "MaskFormer": Case(f"{SEMANTIC}, MaskFormer with Swin-B", "maskformer_swinb_dysample", ade),
    "MaskFormer whole": Case(
        f"{SEMANTIC}, small MaskFormer on the whole image", "demo/maskformer", ade, (ALL_CLASSES, WHOLE)
    ),
    "instance R50": Case(f"{MASKS}, Mask R-CNN R50", "inst_dysample", coco, (ALL_FOUND, ANCHORS)),
    "panoptic": Case(
        f"{SEGMENTS}, small Panoptic FPN", "demo/pan", coco, (ALL_CLASSES, ALL_FOUND, ALL_KEPT, FIT, ANCHORS)
    ),
    "panoptic R50": Case(f"{SEGMENTS}, Panoptic FPN R50", "pan_dysample", coco, (ALL_FOUND, ALL_KEPT, ANCHORS)),
    "depth": Case(
        "depth of 2100 x 2100 pixels, DepthFormer with Swin-T",
        "depth_dysample",
        nyu,
        ("data.test_transforms=[{name: resize_fit, long: 640, short: 480}, normalize]",),
    ),
}


@pytest.mark.whole
@pytest.mark.parametrize("name", CASES)
def test_a_large_image_is_scored_below_2_gb(tmp_path, tally, name):
    case = CASES[name]
    cfg = f"configs/{case.cfg}.yaml"
    where = [f"data.root={case.write(tmp_path / 'data')}", "system.workers=0", "system.device=cpu"]
    options = [*case.options, *where]
    model = load_experiment(ROOT / cfg, options).build_model(pretrained=False)
    torch.save({"format": "denseup-weights", "model": model.state_dict()}, tmp_path / "weights.pt")
    words = ["--cfg", cfg, "--checkpoint", tmp_path / "weights.pt", "--predictions", tmp_path / "out", "--json"]
    peak = int(execute(PEAK, "eval", *words, tmp_path / "result.json", *options).split()[-1])
    tally(CHAPTER, f"{case.what}: predicted, scored and written by one process below 2 GB", tried=1, lost=peak >= LIMIT)
    assert peak < LIMIT
    assert read(tmp_path / "result.json")["num_images"] == 1
    if case.write is coco:
        found = read(tmp_path / "out/predictions.json")
        if isinstance(found, dict):
            assert len(found["annotations"][0]["segments_info"]) > OBJECTS * 0.6
        else:
            assert len(found) == OBJECTS


# --- images that are predicted in windows ----------------------------------------------------------------------------

WINDOWS = ("data.test_transforms=[normalize]", "evaluation.inference.windows.size=[512, 512]")
SIDES, HUGE = (1500, 3000), 10_000  # pixels


@dataclass(frozen=True)
class Windowed:
    """A model, and a small one of the same task, which tells what each pixel of the image takes beside its windows.

    sums: bytes of sums that wait for the next row of windows, at most, if they are many.
    """

    what: str
    cfg: str
    small: str
    options: tuple[str, ...] = ()
    sums: int = 0


WINDOWED = {
    "segmentation": Windowed("SegFormer-B1 with 150 classes", "seg_bilinear", "demo/seg", sums=4 * KEPT),
    "depth": Windowed("DepthFormer with Swin-T", "depth_bilinear", "demo/depth", ("model.flip_test=false",)),
    "boxes": Windowed("a small Faster R-CNN", "demo/det", "demo/det"),
}


def peak_of_prediction(folder: Path, cfg: str, side: int, options: tuple[str, ...]) -> int:
    """Bytes that tools.predict takes for an image of side x side pixels, in windows."""
    experiment = load_experiment(ROOT / f"configs/{cfg}.yaml", [*options, *WINDOWS, "system.device=cpu"])
    content = {"model": experiment.build_model(pretrained=False).state_dict(), "config": dump(experiment)}
    torch.save({"format": "denseup-weights", "source": "made", "kind": "made", **content}, folder / "weights.pt")
    write_image(folder / "large.jpg", (side, side))
    words = ["--model", folder / "weights.pt", folder / "large.jpg", "--out", folder / "out"]
    return int(execute(PEAK, "tools.predict", *words).split()[-1])


@pytest.mark.whole
@pytest.mark.parametrize("name", WINDOWED)
def test_an_image_of_10000_by_10000_takes_less_than_2_gb(tmp_path, tally, name):
    """Found from smaller images: only the image, its maps and what waits for the next row grow with its size."""
    case = WINDOWED[name]
    low, high = (peak_of_prediction(tmp_path, case.small, side, ()) for side in SIDES)
    a_pixel = (high - low) / (SIDES[1] ** 2 - SIDES[0] ** 2)
    side = 1200
    peak = peak_of_prediction(tmp_path, case.cfg, side, case.options) + a_pixel * (HUGE**2 - side**2) + case.sums
    tally(
        CHAPTER, f"{case.what}, windows of an image of 10,000 x 10,000 pixels: below 2 GB", tried=1, lost=peak >= LIMIT
    )
    assert peak < LIMIT


# --- a long training -------------------------------------------------------------------------------------------------


def many(root: Path) -> Path:
    """As many images as COCO has, which are few on disk, with three objects each."""
    for number in range(20):
        write_image(root / f"train2017/{number}.jpg", (48, 64))
        write_image(root / f"val2017/{number}.jpg", (48, 64))
    categories = [{"id": key, "name": category.name} for key, category in COCO.items() if category.isthing]
    (root / "annotations").mkdir()
    for split, count in (("train", IMAGES), ("val", 5)):
        images = [{"id": n, "file_name": f"{n % 20}.jpg", "height": 48, "width": 64} for n in range(count)]
        annotations = [
            {
                "id": n,
                "image_id": n // 3,
                "category_id": categories[n % 80]["id"],
                "bbox": [n % 30, n % 20, 12 + n % 17, 10 + n % 13],
                "area": 100 + n % 40,
                "iscrowd": 0,
            }
            for n in range(3 * count)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


def record_memory(file: str) -> None:
    """Note every 50 steps the memory of this process and its workers, what they share divided among them.

    Without the pages of files, which they share with other programs.
    """

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def add(log: Any, step: int, *values: Any) -> None:
            original(log, step, *values)
            if step % 50 == 0:
                processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
                sizes = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
                total = 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+)", " ".join(sizes))))
                with open(file, "a") as lines:
                    lines.write(f"{step} {len(processes)} {total}\n")

        return add

    replace("runtime.log:RunLog.add_losses", make)


@pytest.mark.whole
def test_a_long_training_does_not_grow(tmp_path, tally):
    where = [f"data.root={many(tmp_path / 'data')}", f"output_dir={tmp_path}", "data.classes=null"]
    length = [f"steps={STEPS}", f"evaluation.every={STEPS}", "logging.every=50", f"logging.checkpoint_every={STEPS}"]
    options = [*TASKS["detection"].overrides, *where, *length, "batch_size=2", "system.workers=2"]
    execute(RECORDED, tmp_path / "sizes", "--cfg", "configs/small/det.yaml", *options)
    lines = np.loadtxt(tmp_path / "sizes", dtype=np.int64)
    steps, processes, sizes = lines[lines[:, 0] >= WARM].T
    assert len(steps) == (STEPS - WARM) // 50 + 1
    assert (processes == 3).all()
    slope = np.polyfit(steps, sizes, 1)[0]
    growth = slope * (STEPS - WARM)
    what = "2,000 steps with 2 workers over 118,000 images; from step 500 on all processes together grow by under 5 MB"
    tally(CHAPTER, what, tried=1, lost=int(growth >= GROWTH))
    assert growth < GROWTH
