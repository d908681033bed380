"""The three official layouts: write the files of one scene, and the files that describe a whole split.

    ADEChallengeData2016/  images/, annotations/, objectInfo150.txt
    coco/                  train2017/, val2017/, annotations/, stuffthingmaps/
    nyu/                   nyu_train.txt, nyu_test.txt, a folder per room

The same rendered scenes serve all three.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.scenes.classes import CLASSES
from datasets.scenes.labels import Segment, coco_segmentation, measured_depth
from datasets.scenes.render import Rendering

ADE_FOLDERS = {"train": "training", "val": "validation"}
NO_LABEL = 255  # in stuff-thing maps
INFO = {"description": "Rendered rooms of DenseUp, in the layout of COCO 2017", "version": "1.0"}


@dataclass(frozen=True)
class Picture:
    """A rendered scene and its place in the data set. split: train or val. index: in the split, from 0."""

    split: str
    index: int
    kind: str
    rendering: Rendering
    segments: Sequence[Segment]

    @property
    def image_id(self) -> int:
        """COCO's image id: odd in training, even in validation, so ids are unique."""
        return 2 * self.index + (1 if self.split == "train" else 2)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.rendering.label.shape
        return height, width


def write_ade(root: Path, picture: Picture, jpeg: bytes) -> list[int]:
    """Write image and label map, 0 for void and 1..K for the classes; return the pixel counts of the values 0..K."""
    folder, stem = ADE_FOLDERS[picture.split], f"ADE_{picture.split}_{picture.index + 1:08d}"
    label = picture.rendering.label
    _write(root / "images" / folder / f"{stem}.jpg", jpeg)
    _write(root / "annotations" / folder / f"{stem}.png", png(label))
    return np.bincount(label.ravel(), minlength=len(CLASSES) + 1).tolist()


def write_class_list(root: Path, counts: dict[str, list[list[int]]]) -> None:
    """Write objectInfo150.txt from the counts of `write_ade`: for each class its share of pixels, images and name."""
    tables = {split: np.array(rows).reshape(-1, len(CLASSES) + 1) for split, rows in counts.items()}
    pixels = sum(table.sum(axis=0) for table in tables.values())
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    for number, entry in enumerate(CLASSES, start=1):
        images = [int((tables[split][:, number] > 0).sum()) for split in ("train", "val")]
        lines.append(f"{number}\t{pixels[number] / pixels.sum():.4f}\t{images[0]}\t{images[1]}\t{entry.name}")
    _write(root / "objectInfo150.txt", ("\n".join(lines) + "\n").encode())


def write_coco(root: Path, picture: Picture, jpeg: bytes) -> dict[str, Any]:
    """Write image, panoptic map and stuff-thing map; return the image's entries for the two JSON files."""
    folder, name = f"{picture.split}2017", f"{picture.image_id:012d}"
    height, width = picture.size
    ids, pixels = np.zeros(picture.size, np.int64), np.full(picture.size, NO_LABEL, np.uint8)
    for segment in picture.segments:
        ids[segment.mask] = segment.id
        pixels[segment.mask] = segment.kind.category_id - 1
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    _write(root / folder / f"{name}.jpg", jpeg)
    _write(root / "annotations" / f"panoptic_{folder}" / f"{name}.png", png(colors))
    _write(root / "stuffthingmaps" / folder / f"{name}.png", png(pixels))
    return {
        "image": {"id": picture.image_id, "file_name": f"{name}.jpg", "height": height, "width": width},
        "instances": _instances(picture),
        "panoptic": {
            "image_id": picture.image_id,
            "file_name": f"{name}.png",
            "segments_info": [
                {
                    "id": segment.id,
                    "category_id": segment.kind.category_id,
                    "area": segment.area,
                    "bbox": list(segment.bbox),
                    "iscrowd": int(segment.crowd),
                }
                for segment in picture.segments
            ],
        },
    }


def _instances(picture: Picture) -> list[dict[str, Any]]:
    things = [segment for segment in picture.segments if segment.kind.is_thing]
    return [
        {
            "id": picture.image_id * 1000 + number,
            "image_id": picture.image_id,
            "category_id": segment.kind.category_id,
            "segmentation": coco_segmentation(segment.mask, segment.crowd),
            "area": float(segment.area),
            "bbox": [float(value) for value in segment.bbox],
            "iscrowd": int(segment.crowd),
        }
        for number, segment in enumerate(things)
    ]


def write_coco_index(root: Path, split: str, entries: Sequence[dict[str, Any]]) -> None:
    """Write the instances and the panoptic JSON of a split from the entries of `write_coco`."""
    known = sorted(CLASSES, key=lambda entry: entry.category_id)
    categories = [{"supercategory": c.supercategory, "id": c.category_id, "name": c.name} for c in known]
    things = [category for category, c in zip(categories, known, strict=True) if c.is_thing]
    both = [{**category, "isthing": int(c.is_thing)} for category, c in zip(categories, known, strict=True)]
    images = [entry["image"] for entry in entries]
    start = {"info": INFO, "licenses": [], "images": images}
    objects = [item for entry in entries for item in entry["instances"]]
    instances = {**start, "annotations": objects, "categories": things}
    panoptic = {**start, "annotations": [entry["panoptic"] for entry in entries], "categories": both}
    _write(root / "annotations" / f"instances_{split}2017.json", json.dumps(instances).encode())
    _write(root / "annotations" / f"panoptic_{split}2017.json", json.dumps(panoptic).encode())


def write_nyu(root: Path, picture: Picture, jpeg: bytes, rng: np.random.Generator) -> str:
    """Write image and measured depth in millimetres; return the image's line for the split file.

    As in the official files, a training folder is one room and paths start with "/"; a test folder is a kind of room
    and paths have no slash at the start.
    """
    training = picture.split == "train"
    folder = f"{picture.kind}_{picture.index // 20 + 1:04d}a" if training else picture.kind
    image, depth = f"{folder}/rgb_{picture.index:05d}.jpg", f"{folder}/sync_depth_{picture.index:05d}.png"
    _write(root / image, jpeg)
    _write(root / depth, png(measured_depth(picture.rendering, rng)))
    slash = "/" if training else ""
    return f"{slash}{image} {slash}{depth} {picture.rendering.focal:.4f}"


def write_nyu_list(root: Path, split: str, lines: Iterable[str]) -> None:
    """Write a split file. Like the official ones, it does not end with a newline."""
    _write(root / {"train": "nyu_train.txt", "val": "nyu_test.txt"}[split], "\n".join(lines).encode())


def png(array: np.ndarray) -> bytes:
    """Encode [H, W] of 8 or 16 bits, or RGB [H, W, 3], as PNG."""
    return _encode(".png", array, [])


def jpeg(array: np.ndarray) -> bytes:
    """Encode RGB [H, W, 3] as JPEG, quality 95, with colour at full resolution: images have thin coloured bars."""
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 95, *full])


def _encode(suffix: str, array: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode {array.dtype} of shape {array.shape} as {suffix}")
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
