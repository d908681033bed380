"""A small data set in the layout of COCO 2017's panoptic files, to read and to spoil."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from config import validate
from datasets.panoptic.dataset import COCOPanoptic, COCOPanopticConfig
from datasets.scenes.classes import CLASSES as SCENE_CLASSES
from structures import Panoptic, Prediction, Size

Json = dict[str, Any]
TRAIN, VAL = (f"annotations/panoptic_{split}2017.json" for split in ("train", "val"))
INSTANCES = "annotations/instances_train2017.json"
CLASSES = {  # labels 0 to 3: things do not come first
    1: {"name": "person", "isthing": True},
    2: {"name": "grass", "isthing": False},
    3: {"name": "car", "isthing": True},
    90: {"name": "sky", "isthing": False},
}
PERSON, GRASS, CAR, SKY = range(4)
# In the order of the file. Image 7 has no thing, 12 a crowd alone, 20 is small, 30 has no segment at all.
SIZES: dict[int, Size] = {9: (40, 60), 5: (60, 40), 7: (48, 48), 12: (36, 50), 20: (20, 64), 30: (33, 70)}
# By image: id, category id, crowd, and the rectangle x, y, w, h that it fills; the rest is void.
SEGMENTS: dict[int, list[tuple[int, int, int, tuple[int, int, int, int]]]] = {
    9: [
        (65536, 90, 0, (0, 0, 60, 10)),
        (1, 3, 0, (5, 12, 20, 8)),
        (256, 1, 0, (30, 12, 6, 20)),
        (66051, 1, 1, (40, 12, 15, 6)),
        (16777215, 2, 0, (0, 35, 60, 5)),
    ],
    5: [(7, 1, 0, (0, 0, 40, 60))],
    7: [(3, 2, 0, (0, 0, 48, 40)), (4, 2, 0, (0, 40, 48, 5)), (5, 90, 0, (10, 45, 3, 3))],
    12: [(70000, 3, 1, (0, 0, 25, 36))],
    20: [(2, 1, 0, (3, 4, 5, 6))],
    30: [],
}


def write_layout(root: Path) -> Path:
    """The images above, the same in both splits; returns `root`."""
    rng = np.random.default_rng(0)
    for split, file in (("train", TRAIN), ("val", VAL)):
        (root / f"{split}2017").mkdir(parents=True)
        for key, (height, width) in SIZES.items():
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(root / f"{split}2017/{key:012d}.jpg"), pixels)
            store_png(root / file.removesuffix(".json") / f"{key:012d}.png", ids_of(key))
        store(root, content(), file)
    return root


def ids_of(image: int) -> np.ndarray:
    """The ids [H, W] of an image."""
    ids = np.zeros(SIZES[image], np.int64)
    for key, _, _, (x, y, w, h) in SEGMENTS[image]:
        ids[y : y + h, x : x + w] = key
    return ids


def store_png(path: Path, ids: np.ndarray) -> None:
    """Write ids by Pillow, a colour at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = [(ids // 256**power % 256).astype(np.uint8) for power in range(3)]
    Image.merge("RGB", [Image.fromarray(color) for color in colors]).save(path)


def content() -> Json:
    """The annotation file."""
    return {
        "images": [
            {"id": key, "file_name": f"{key:012d}.jpg", "height": height, "width": width}
            for key, (height, width) in SIZES.items()
        ],
        "annotations": [
            {
                "image_id": key,
                "file_name": f"{key:012d}.png",
                "segments_info": [
                    {"id": number, "category_id": category, "iscrowd": crowd, "bbox": list(box), "area": -1}
                    for number, category, crowd, box in segments
                ],
            }
            for key, segments in reversed(SEGMENTS.items())
        ],
        "categories": [
            {"id": key, "name": kind["name"], "isthing": int(kind["isthing"])}
            for key, kind in reversed(CLASSES.items())
        ],
    }


def stored(root: Path, file: str = TRAIN) -> Json:
    """The content of an annotation file."""
    found: Json = json.loads((root / file).read_text())
    return found


def store(root: Path, content: Any, file: str = TRAIN) -> None:
    """Write an annotation file."""
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(content))


def spoil(root: Path, change: Callable[[Any], object], file: str = TRAIN) -> None:
    """Change an annotation file."""
    found = stored(root, file)
    change(found)
    store(root, found, file)


def annotation(content: Json, image: int) -> Json:
    """The entry of one image."""
    return next(item for item in content["annotations"] if item["image_id"] == image)


def segment(content: Json, image: int, key: int) -> Json:
    """The entry of one segment."""
    return next(item for item in annotation(content, image)["segments_info"] if item["id"] == key)


def config(root: Path | str, **options: Any) -> COCOPanopticConfig:
    """A configuration with the least transforms and the classes above."""
    resize = {"name": "resize_fit", "long": 64, "short": 32}
    defaults = {"root": str(root), "train_transforms": ["normalize"], "test_transforms": [resize, "normalize"]}
    return validate(COCOPanopticConfig, {**defaults, "classes": CLASSES, **options}, "data")


def scene_config(scenes: Path, **options: Any) -> COCOPanopticConfig:
    """The same for the embedded scenes."""
    kinds = {entry.category_id: {"name": entry.name, "isthing": entry.is_thing} for entry in SCENE_CLASSES}
    return config(scenes / "coco", classes=kinds, **options)


def place(dataset: COCOPanoptic, image: int) -> int:
    """The index of an image."""
    return next(index for index in range(len(dataset)) if dataset.target(index).image_id == str(image))


def image_ids(dataset: COCOPanoptic) -> list[int]:
    """Those of all images."""
    return [int(dataset.target(index).image_id) for index in range(len(dataset))]


def assert_same(prediction: Prediction, expected: Panoptic | None) -> None:
    """The prediction has these ids and labels."""
    assert prediction.panoptic is not None
    assert expected is not None
    assert prediction.panoptic.ids.dtype == torch.int32
    assert np.array_equal(prediction.panoptic.ids, expected.ids)
    assert prediction.panoptic.labels == expected.labels
