"""COCO 2017, boxes and masks (Lin et al., ECCV 2014), and any data in the same form.

That form is a folder of images and a JSON file per split; classes and paths are set in the YAML.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pycocotools import mask as mask_utils
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from config import Schema
from datasets.base import DenseDataset, Objects, Sample
from datasets.coco_annotations import Annotations, OnError, read_annotations, read_classes
from datasets.coco_files import CocoFiles
from datasets.images import read_image
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import DatasetInfo, Size, Target

DOWNLOAD = "train2017.zip, val2017.zip and annotations_trainval2017.zip from http://images.cocodataset.org"
TRAIN_ANNOTATIONS = "annotations/instances_train2017.json"
GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # category ids that COCO 2017 does not use

NAMES = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
CLASSES = dict(zip((number for number in range(1, 91) if number not in GAPS), NAMES, strict=True))


def _check_mapping(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError("is not a mapping of category ids to names; write for example {1: person, 2: bicycle}")
    return value


ClassName = Annotated[str, Field(min_length=1)]
Classes = Annotated[dict[NonNegativeInt, ClassName] | None, BeforeValidator(_check_mapping)]


class COCOConfig(Schema):
    """root: the folder with `annotations`, `train2017` and `val2017`; the other paths are relative to it, or absolute.

    masks: the task is instance segmentation, not detection. classes: category id -> name; labels are the ranks of the
    ids. None: the official 80; or, where train_annotations is set to another file, that file's categories, which are
    read at once and kept here, so that a checkpoint knows its classes. Mappings merge: to replace classes that are set
    already, write `data.classes=null` before `data.classes={...}`.
    train_empty_images: train on images without any annotation, too. min_side: train on no image with a shorter side.
    aspect_grouping: so many consecutive training images are all wider than tall, or all not, which saves padding.
    on_error: what an unusable image or annotation does: stop with an error, or be left out and listed (see `COCO`).
    """

    name: Literal["coco"] = "coco"
    root: Path
    masks: bool = False
    classes: Classes = None
    train_images: str = "train2017"
    val_images: str = "val2017"
    train_annotations: str = TRAIN_ANNOTATIONS
    val_annotations: str = "annotations/instances_val2017.json"
    train_empty_images: bool = False
    min_side: PositiveInt = 32
    aspect_grouping: PositiveInt | None = 2
    on_error: OnError = "stop"
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="before")
    @classmethod
    def _read_classes(cls, values: Any) -> Any:
        """Classes that the user leaves to a file of his own. Raises UserError if the file is unusable."""
        if not isinstance(values, dict) or values.get("classes") is not None:
            return values
        root, file = values.get("root"), values.get("train_annotations", TRAIN_ANNOTATIONS)
        if not isinstance(root, str | Path) or not isinstance(file, str) or file == TRAIN_ANNOTATIONS:
            return values
        path = _below(Path(root), file)
        if problem := _problem(path, "file"):
            what = f"{problem}; the classes would be read from it"
            raise UserError(path, what, "correct data.train_annotations (or data.root), or list data.classes")
        return {**values, "classes": read_classes(path)}

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        names = self.info.classes
        if not names:
            raise ValueError("there are no classes; list data.classes, or name annotations with categories")
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two classes are called {double}; give every class its own name")
        return self

    @property
    def _names(self) -> dict[int, str]:
        """Category id -> name, by ascending id."""
        return dict(sorted((CLASSES if self.classes is None else self.classes).items()))

    @property
    def info(self) -> DatasetInfo:
        """Task and classes; needs no data on disk."""
        task = "instance" if self.masks else "detection"
        return DatasetInfo(task=task, name=self.name, classes=tuple(self._names.values()))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's id of every label, in label order."""
        return tuple(self._names)

    def build(self, split: Literal["train", "val"], annotations_only: bool = False) -> "COCO":
        """One split. Raises UserError if its files are not all there, or an entry is unusable (see on_error).

        annotations_only: for scoring, where no image needs to be on disk; `target` works, `load` does not.
        """
        return COCO(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> CocoFiles:
        """One COCO results file in `folder`, or the file that it names; needs no data on disk."""
        return CocoFiles(folder, self.category_ids, masks=self.masks)


class COCO(DenseDataset):
    """The images of one annotation file by ascending id, which is their `image_id`, as pycocotools orders them.

    Training leaves out images without any annotation (a crowd is one) and small ones, and of the others the objects
    that teach nothing: boxes outside the image, of less than a pixel's width or height, or with an area of 0. The
    other boxes are cut to the image. Crowds stay, marked as such. Evaluation has every image and every object as it
    stands in the file.

    What on_error "skip" leaves out is in `skipped`, and is absent: an object that is left out in evaluation is no
    object, so finding it counts as a mistake; an image takes its annotations with it. A missing image file counts
    as unusable only where images are needed; pixels are read by `load` alone, where unusable ones always stop. The
    files on disk are never changed.
    """

    def __init__(self, config: COCOConfig, split: Literal["train", "val"], annotations_only: bool = False) -> None:
        self.info = config.info
        self._training = split == "train"
        self._masks = config.masks
        root = _below(config.root, "")
        if self._training:
            images, file = config.train_images, config.train_annotations
        else:
            images, file = config.val_images, config.val_annotations
        self._folder, self._file = _below(root, images), _below(root, file)
        _check_paths(root, None if annotations_only else self._folder, self._file, split)
        self._annotations, self.skipped = read_annotations(
            self._file,
            config._names,
            masks=config.masks,
            images=None if annotations_only else self._folder,
            on_error=config.on_error,
        )
        self._images = np.arange(len(self._annotations.image_ids))  # row in the annotations of every image
        if self._training:
            self._images = self._images[_trainable(self._annotations, config)]
            if not len(self._images):
                what = f"no image has an annotation and sides of at least {config.min_side} pixels"
                raise UserError(self._file, what, "name other annotations, or lower data.min_side")
            if config.aspect_grouping:
                height, width = self._annotations.sizes[self._images].T
                self.groups, self.group_size = (width > height).astype(np.int64), config.aspect_grouping

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> Sample:
        """Image and objects. Raises UserError if the image is unusable or has not the size that the JSON says.

        The JSON is taken to describe the image as displayed, EXIF orientation applied: official files do.
        """
        image = self._images[index]
        path = self._folder / self._annotations.names[image]
        pixels = read_image(path)
        height, width = size = self._annotations.size(image)
        if pixels.shape[:2] != size:
            what = f"is displayed at {pixels.shape[1]} x {pixels.shape[0]} (width x height) but image"
            what += f" {self._annotations.image_ids[image]} of {self._file} is {width} x {height}"
            raise UserError(path, what, "correct the JSON, or take the orientation (EXIF) out of the image")
        return Sample(self._image_id(image), size, pixels, objects=self._objects(image))

    def target(self, index: int) -> Target:
        """The objects at original size; opens no image."""
        image = self._images[index]
        instances = self._objects(image).instances()
        return Target(self._image_id(image), self._annotations.size(image), instances=instances)

    def _image_id(self, image: int) -> str:
        return str(self._annotations.image_ids[image])

    def _objects(self, image: int) -> Objects:
        return self._training_objects(image) if self._training else self._evaluation_objects(image)

    def _training_objects(self, image: int) -> Objects:
        annotations, size = self._annotations, self._annotations.size(image)
        rows = annotations.rows(image)
        xywh = annotations.boxes[rows]
        boxes = np.clip(_corners(xywh), 0, np.array([size[1], size[0]] * 2)).astype(np.float32)
        kept = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        kept &= (xywh[:, 2:] >= 1).all(axis=1) & (annotations.areas[rows] > 0)
        rows = rows[kept]
        masks = _bitmaps(annotations.rles(rows), size)
        return Objects(boxes[kept], annotations.labels[rows], annotations.crowd[rows], masks=masks)

    def _evaluation_objects(self, image: int) -> Objects:
        annotations, rows = self._annotations, self._annotations.rows(image)
        xywh = annotations.boxes[rows]
        return Objects(
            boxes=_corners(xywh).astype(np.float32),
            labels=annotations.labels[rows],
            crowd=annotations.crowd[rows],
            rles=annotations.rles(rows),
            xywh=xywh,
            areas=annotations.areas[rows],
        )


def _below(root: Path, path: str) -> Path:
    try:
        return root.expanduser() / Path(path).expanduser()
    except RuntimeError as error:  # ~ or ~user without a home
        raise UserError(root / path, str(error), "write the whole path") from None


def _check_paths(root: Path, images: Path | None, file: Path, split: str) -> None:
    if problem := _problem(root, "folder"):
        do = f"unpack {DOWNLOAD} into one folder and set data.root to it"
        raise UserError(root, problem, do)
    if problem := _problem(file, "file"):
        do = f"check data.root, or set data.{split}_annotations to the file's path below it"
        raise UserError(file, f"{problem}, which the COCO layout needs", do)
    if images is not None and (problem := _problem(images, "folder")):
        do = f"check data.root, or set data.{split}_images to the folder's path below it"
        raise UserError(images, f"{problem}, which the COCO layout needs", do)


def _problem(path: Path, kind: Literal["file", "folder"]) -> str | None:
    """Why `path` is no file or folder to read; None if it is one."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return f"no such {kind}"
    except OSError as error:
        return f"no {kind} that can be read ({error.strerror})"
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        return f"no such {kind}"
    return None if os.access(path, os.R_OK) else f"no {kind} that may be read (check its permissions)"


def _trainable(annotations: Annotations, config: COCOConfig) -> np.ndarray:
    """Which images to train on: [M] bool. Official: 117,266 of 118,287."""
    large = annotations.sizes.min(axis=1) >= config.min_side
    return large if config.train_empty_images else large & (np.diff(annotations.offsets) > 0)


def _corners(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _bitmaps(rles: list[bytes] | None, size: Size) -> np.ndarray | None:
    """[N, H, W] bool of compressed run lengths."""
    if rles is None:
        return None
    if not rles:
        return np.zeros((0, *size), bool)
    bitmaps = mask_utils.decode([{"size": list(size), "counts": rle} for rle in rles])  # [H, W, N], N the slowest
    return np.ascontiguousarray(bitmaps.transpose(2, 0, 1)).view(bool)
