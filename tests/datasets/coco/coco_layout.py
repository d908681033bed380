"""A small data set in the layout of COCO 2017, to read and to spoil."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from config import validate
from datasets.coco.dataset import COCOConfig
from errors import UserError
from structures import Target

Json = dict[str, Any]
TRAIN, VAL = (f"annotations/instances_{split}2017.json" for split in ("train", "val"))
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
# In the order of the file. Image 7 has no object, 12 a crowd alone, 20 is small, 30 the only one of its shape and size.
SIZES = {9: (40, 60), 5: (60, 40), 7: (48, 48), 12: (36, 50), 20: (20, 64), 30: (33, 70)}
RESIZE = {"name": "resize_fit", "long": 64, "short": 32}


def write_layout(root: Path) -> Path:
    """Six images with eight annotations, the same in both splits; returns `root`."""
    rng = np.random.default_rng(0)
    for split, file in (("train", TRAIN), ("val", VAL)):
        (root / f"{split}2017").mkdir(parents=True)
        images = []
        for key, (height, width) in SIZES.items():
            name = f"{key:012d}.jpg"
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(root / f"{split}2017" / name), pixels)
            images.append({"id": key, "file_name": name, "height": height, "width": width})
        store(root, {"images": images, "annotations": annotations(), "categories": CATEGORIES}, file)
    return root


def annotations() -> list[Json]:
    """Polygons of one and of two parts, run lengths of both forms, a crowd; not in the order of the images."""
    runs = coco_mask.encode(np.asfortranarray(np.tri(60, 40, dtype=np.uint8)))
    return [
        annotation(100, 30, 1, [2, 3, 20, 10], [[2, 3, 22, 3, 22, 13, 2, 13]]),
        annotation(17, 9, 90, [5.5, 6.25, 30, 20], [[5.5, 6.25, 35.5, 10, 20, 26.25]]),
        annotation(16, 9, 1, [0, 0, 12, 12], [[0, 0, 6, 0, 0, 6], [6, 6, 12, 6, 12, 12]]),
        annotation(50, 5, 3, [0, 0, 40, 60], {"size": [60, 40], "counts": runs["counts"].decode()}),
        annotation(51, 12, 3, [0, 0, 50, 18], {"size": [36, 50], "counts": [0, 18] + [18, 18] * 49 + [18]}, crowd=1),
        annotation(60, 20, 1, [1, 1, 5, 5], [[1, 1, 6, 1, 6, 6, 1, 6]]),
        annotation(18, 9, 3, [30, 20, 10, 10], {"size": [40, 60], "counts": [1220, 10, 1170]}, crowd=1),
        annotation(52, 5, 1, [10, 10, 4, 40], [[10, 10, 14, 10, 14, 50, 10, 50]]),
    ]


def annotation(key: int, image: int, category: int, box: list[float], segmentation: Any, crowd: int = 0) -> Json:
    """One entry, whose area is that of its box."""
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": float(box[2] * box[3]),
        "iscrowd": crowd,
        "segmentation": segmentation,
    }


def stored(root: Path, file: str = TRAIN) -> Json:
    """The content of an annotation file."""
    content: Json = json.loads((root / file).read_text())
    return content


def store(root: Path, content: Any, file: str = TRAIN) -> None:
    """Write an annotation file."""
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(content))


def entry(content: Json, kind: str, key: int) -> Json:
    """One image or annotation by its id."""
    return next(item for item in content[kind] if item["id"] == key)


def config(root: Path | str, **options: Any) -> COCOConfig:
    """A configuration with the least transforms."""
    defaults = {"root": str(root), "train_transforms": ["normalize"], "test_transforms": [RESIZE, "normalize"]}
    return validate(COCOConfig, {**defaults, **options}, "data")


def refused(build: Callable[[], Any]) -> str:
    """The one line with which `build` fails."""
    with pytest.raises(UserError) as error:
        build()
    assert "\n" not in str(error.value)
    assert len(error.value.args) == 3
    return str(error.value)


def plain(target: Target) -> list[Any]:
    """All of a target as something to compare."""
    values = [] if target.instances is None else list(vars(target.instances).values())
    return [target.image_id, target.size, *(v.tolist() if isinstance(v, torch.Tensor) else v for v in values)]
