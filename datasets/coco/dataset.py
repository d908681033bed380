"""COCO 2017, boxes and masks (Lin et al., ECCV 2014), and any data in the same form.

Each split is a folder of images and a JSON file; classes and paths are set in the YAML.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from config import Schema
from datasets.base import DenseDataset, Doubt, ImageRange, Objects, RepeatThreshold, Sample, Survey
from datasets.coco.annotations import Crowds, read_annotations, read_classes
from datasets.coco.categories import advice_on_classes, file_with_classes
from datasets.coco.doubts import image_doubts, object_doubts
from datasets.coco.json_file import EntryErrors, ImageIndex
from datasets.coco.objects import evaluation_objects, training_objects
from datasets.coco.predictions import CocoFiles
from datasets.coco.survey import (
    large_images,
    left_out_images,
    left_out_objects,
    no_image,
    nothing_left,
    occurrences,
    odd_boxes,
    protocol,
    rows_of,
    shapes_of,
    warnings,
)
from datasets.files.folders import evenly_spread, other_files
from datasets.files.images import IMAGE_SUFFIXES, check_image_range, read_image
from datasets.files.paths import check_path, check_root, resolve_path
from datasets.files.unusable import OnError
from datasets.frequency import Occurrences
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import DatasetInfo, Target

TRAIN_ANNOTATIONS = "annotations/instances_train2017.json"
NEEDED = "an annotation"  # for an image to be trained on
SURVEYED_IMAGES = 16  # so many images are read before the start, evenly spread
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


def check_names(names: tuple[str, ...]) -> None:
    """Raise ValueError if there is no class, or if two classes have the same name."""
    if not names:
        raise ValueError("there are no classes; list data.classes, or name annotations with categories")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes are called {duplicate}; leave one out, or give every class its own name")


ClassName = Annotated[str, Field(min_length=1)]
Classes = Annotated[dict[NonNegativeInt, ClassName] | None, BeforeValidator(_check_mapping)]


class COCOConfig(Schema):
    """root: the folder with `annotations`, `train2017` and `val2017`; the other paths are relative to it, or absolute.

    masks: the task is instance segmentation, not detection.
    classes: category id -> name; labels follow the ascending order of the ids. Annotations of other categories are left
    out, of both splits, and counted. None: the official 80. But if train_annotations is set to another file, None
    stands for that file's categories; they are read when the configuration is loaded and stored here, so that a
    checkpoint contains its classes. Mappings merge: to replace classes that are already set, write `data.classes=null`
    before `data.classes={...}`.
    crowds: what iscrowd 1 means. "ignore": a group, which is neither learnt nor scored. "objects": an object like
    others, for masks of single objects that a tool exported as run lengths with iscrowd 1.
    train_empty_images: also train on images without any annotation.
    min_side: do not train on images with a shorter side.
    aspect_grouping: this many consecutive training images are all wider than tall, or all not, which saves padding.
    on_error: what to do with an unusable image or annotation: "stop" with an error, or "skip" and list it (see `COCO`).
    image_range: see `ImageRange`. repeat_threshold: see `RepeatThreshold`.
    """

    name: Literal["coco"] = "coco"
    root: Path
    masks: bool = False
    classes: Classes = None
    train_images: str = "train2017"
    val_images: str = "val2017"
    train_annotations: str = TRAIN_ANNOTATIONS
    val_annotations: str = "annotations/instances_val2017.json"
    crowds: Crowds = "ignore"
    train_empty_images: bool = False
    min_side: PositiveInt = 32
    aspect_grouping: PositiveInt | None = 2
    on_error: OnError = "stop"
    image_range: ImageRange = None
    repeat_threshold: RepeatThreshold = None
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="before")
    @classmethod
    def _read_classes(cls, values: Any) -> Any:
        """Read the classes from the user's own file if they are not set. Raises UserError if the file is unusable."""
        path = file_with_classes(values, TRAIN_ANNOTATIONS)
        return values if path is None else {**values, "classes": read_classes(path)}

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        check_names(self.info.classes)
        return self

    @property
    def _names(self) -> dict[int, str]:
        """Category id -> name, by ascending id."""
        return dict(sorted((CLASSES if self.classes is None else self.classes).items()))

    @property
    def info(self) -> DatasetInfo:
        """The task and the classes; needs no data on disk."""
        task = "instance" if self.masks else "detection"
        return DatasetInfo(task=task, name=self.name, classes=tuple(self._names.values()))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each label, in label order."""
        return tuple(self._names)

    def build(self, split: Literal["train", "val"], annotations_only: bool = False) -> "COCO":
        """The dataset of one split. Raises UserError if a file is missing or an entry is unusable (see on_error).

        annotations_only: for scoring without images on disk; then `target` works, `load` does not.
        """
        return COCO(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> CocoFiles:
        """A COCO results file in `folder`, or at `folder` if that is a .json file; needs no data on disk."""
        return CocoFiles(folder, self.category_ids, masks=self.masks)


class COCO(DenseDataset):
    """The images of one annotation file, ordered by id as in pycocotools; the id is their `image_id`.

    Training leaves out small images and images without any annotation (a crowd counts as one). In the other images it
    leaves out objects that cannot be learned from: boxes outside the image, narrower or lower than a pixel, or with an
    area of 0. The other boxes are clipped to the image. Crowds are kept, with their flag. Evaluation has every image
    and every object exactly as in the file.

    With on_error "skip", unusable entries are listed in `unusable` and treated as absent. If an object is skipped in
    evaluation, detecting it counts as a false positive. The annotations of a skipped image are skipped too. A missing
    image file counts as unusable only if images are needed. Only `load` reads pixels; unusable ones always raise an
    error there. The files on disk are never changed.
    """

    def __init__(self, config: COCOConfig, split: Literal["train", "val"], annotations_only: bool = False) -> None:
        self.info = config.info
        self._training = split == "train"
        self._masks = config.masks
        root = resolve_path(config.root, "")
        if self._training:
            images, file = config.train_images, config.train_annotations
        else:
            images, file = config.val_images, config.val_annotations
        self._folder, self._file = resolve_path(root, images), resolve_path(root, file)
        check_root(root, "COCO 2017", "prepare_coco")
        check_path(self._file, "file", f"{split}_annotations")
        if not annotations_only:
            check_path(self._folder, "folder", f"{split}_images")
        entry_errors = EntryErrors(self._file, config.on_error)
        self._annotations = read_annotations(
            self._file,
            config._names,
            masks=config.masks,
            images=None if annotations_only else self._folder,
            entry_errors=entry_errors,
            crowds=config.crowds,
            advice=advice_on_classes(split, config.train_annotations != TRAIN_ANNOTATIONS),
        )
        self.unusable = entry_errors.errors
        self.protocol = protocol(config.crowds, self._annotations.others)
        self._min_side, self._image_range = config.min_side, config.image_range
        self._images = np.arange(len(self._annotations.image_ids))  # each image's row in the annotations
        self._wanted = (np.diff(self._annotations.offsets) > 0) | config.train_empty_images
        if self._training:
            # In COCO 2017: 117,266 of 118,287.
            self._images = np.flatnonzero(self._wanted & large_images(self._annotations, config.min_side))
            if not len(self._images):
                raise no_image(self._file, self._annotations, self._wanted, NEEDED, config.min_side, self.skipped)
            self.repeat_threshold = config.repeat_threshold
            if config.aspect_grouping:
                self.groups = aspect_groups(self._annotations.sizes[self._images])
                self.group_size = config.aspect_grouping

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return str(self._annotations.image_ids[self._images[index]])

    def files(self, index: int) -> tuple[Path, ...]:
        """The image."""
        return (self._folder / self._annotations.names[self._images[index]],)

    def doubts(self) -> list[Doubt]:
        """Images that two entries name or that are too small, and objects that cannot be learnt, in either split."""
        annotations, images = self._annotations, self._images
        rows, image_rows = rows_of(annotations, images)
        shapes, ids = shapes_of(annotations, images), annotations.ids
        of_objects = object_doubts(
            self._file, annotations, image_rows, images, shapes, lambda number: f"annotation {ids[rows[number]]}"
        )
        min_side = self._min_side if self._training else None
        return [*image_doubts(self._file, self._folder, annotations, images, min_side), *of_objects]

    def unnamed_files(self) -> dict[Path, list[Path]]:
        """Images that the annotation file does not name."""
        return {self._folder: other_files(self._folder, IMAGE_SUFFIXES, self._annotations.names)}

    def occurrences(self) -> Occurrences:
        """The objects of each class that are learnt from."""
        return occurrences(self._annotations, self._images)

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        """Count the objects of each class that are learnt from or scored, and those that are left out by reason."""
        looked_at = self._images if images is None else self._images[list(images)]
        check_listed_images(self._folder, self._annotations, looked_at, self._image_range)
        annotations = self._annotations
        shapes = shapes_of(annotations, self._images)
        if not len(shapes.labels):
            annotated = np.diff(annotations.offsets) > 0
            raise no_image(self._file, annotations, annotated, NEEDED, self._min_side, self.skipped)
        unused, oddity = shapes.unused(self._training), odd_boxes(shapes)
        used = ~np.any([*unused.values()], axis=0)
        if not used.any():
            raise nothing_left(self._file, "learn" if self._training else "score", unused, oddity)
        numbers = np.bincount(shapes.labels[used], minlength=self.info.num_classes).tolist()
        counts = dict(zip(self.info.classes, numbers, strict=True))
        of_images = left_out_images(annotations, self._wanted, NEEDED, self._min_side) if self._training else {}
        left_out = of_images | left_out_objects(unused, annotations.others)
        return Survey("objects", counts, left_out, warnings(counts, annotations.others, oddity))

    def load(self, index: int) -> Sample:
        """The image and its objects. Raises UserError if the image is unusable or its size differs from the JSON's.

        Like official files, the JSON must describe the image as displayed, with EXIF orientation applied.
        """
        image = self._images[index]
        pixels = read_listed_image(self._folder, self._annotations, image, self._file, self._image_range)
        return Sample(self._image_id(image), self._annotations.size(image), pixels, objects=self._objects(image))

    def target(self, index: int) -> Target:
        """The objects at original size; reads no image."""
        image = self._images[index]
        instances = self._objects(image).instances()
        return Target(self._image_id(image), self._annotations.size(image), instances=instances)

    def _image_id(self, image: int) -> str:
        return str(self._annotations.image_ids[image])

    def _objects(self, image: int) -> Objects:
        return (training_objects if self._training else evaluation_objects)(self._annotations, image)


def aspect_groups(sizes: np.ndarray) -> np.ndarray:
    """The group of each image by its (height, width) [M, 2]: [M] int64, 1 if it is wider than tall, else 0."""
    return (sizes[:, 1] > sizes[:, 0]).astype(np.int64)


def check_listed_images(folder: Path, index: ImageIndex, images: np.ndarray, image_range: ImageRange) -> None:
    """Raise UserError if a sample of the images in these rows of `index` shows that image_range must be set."""
    if os.path.isdir(folder):  # not if only the annotations are there
        sample = [images[row] for row in evenly_spread(len(images), SURVEYED_IMAGES)]
        check_image_range([folder / index.names[image] for image in sample], image_range)


def read_listed_image(
    folder: Path, index: ImageIndex, image: int, file: Path, image_range: ImageRange = None
) -> np.ndarray:
    """The pixels, RGB uint8 [H, W, 3], of the image in row `image` of `index`, the content of `file`.

    Raises UserError if the image is unusable or its size differs from the listed one.
    """
    path = folder / index.names[image]
    pixels = read_image(path, image_range or "full")
    height, width = index.size(image)
    if pixels.shape[:2] != (height, width):
        what = f"is displayed at {pixels.shape[1]} x {pixels.shape[0]} (width x height) but image"
        what += f" {index.image_ids[image]} of {file} is {width} x {height}"
        raise UserError(path, what, "correct the JSON, or take the orientation (EXIF) out of the image")
    return pixels
