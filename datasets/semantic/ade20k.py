"""ADE20K, scene parsing version with 150 classes (Zhou et al., CVPR 2017), and any data in the same form.

Each split is a folder of images and a folder of label PNGs with the same stems; classes, folders and the meaning of
label values are set in the YAML.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator

from config import Schema
from datasets.base import DenseDataset, Sample, Survey
from datasets.files.folders import Names, list_by_stem
from datasets.files.images import IMAGE_SUFFIXES, read_image, read_label_map
from datasets.files.paths import problem_with
from datasets.semantic.predictions import SemanticFiles
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import IGNORE, DatasetInfo, Target

DOWNLOAD = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
UNKNOWN = -2  # in the table from file values to labels: a value that is neither a class nor ignored

CLASSES = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
    plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step,
    tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
    flag""".replace("\n    ", " ").split(", ")
)


class ADE20KConfig(Schema):
    """root: the folder ADEChallengeData2016, or one with the same structure.

    classes: names in label order; None: the official 150. The folders are relative to root.
    first_label: the value of class 0 in the PNGs. ignore_labels: values of pixels to ignore. All other values are
    errors. ADE20K: 1 and [0]. Cityscapes (trainIds) and Pascal VOC: 0 and [255].
    """

    name: Literal["ade20k"] = "ade20k"
    root: Path
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=2**15)] | None = None
    train_images: str = "images/training"
    train_annotations: str = "annotations/training"
    val_images: str = "images/validation"
    val_annotations: str = "annotations/validation"
    first_label: NonNegativeInt = 1
    ignore_labels: tuple[NonNegativeInt, ...] = (0,)
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        classes = self.info.classes
        if len(set(classes)) < len(classes):
            duplicate = next(name for name in classes if classes.count(name) > 1)
            raise ValueError(f"class {duplicate} appears twice in classes; give every class its own name")
        last = self.first_label + len(classes) - 1
        conflicts = [value for value in self.ignore_labels if self.first_label <= value <= last]
        if conflicts:
            what = f"ignore_labels names {conflicts[0]}, which is class {classes[conflicts[0] - self.first_label]}"
            raise ValueError(f"{what}; classes take the values {self.first_label} to {last}, ignore others")
        if max(last, *self.ignore_labels, 0) >= 2**16:
            raise ValueError("first_label and ignore_labels go beyond 65535; PNGs hold 16 bits")
        return self

    @property
    def info(self) -> DatasetInfo:
        """The task and the classes; needs no data on disk."""
        return DatasetInfo(task="semantic", name=self.name, classes=self.classes or CLASSES)

    def build(self, split: Literal["train", "val"], annotations_only: bool = False) -> "ADE20K":
        """The dataset of one split. Raises UserError if any of its files is missing.

        annotations_only: for scoring without images on disk; then `target` works, `load` does not.
        """
        return ADE20K(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> SemanticFiles:
        """Label PNGs in `folder`; needs no data on disk."""
        return SemanticFiles(folder, self.info.num_classes)


class ADE20K(DenseDataset):
    """Images and label maps in two folders, paired by stem and sorted by it; the stem is the image's id.

    The constructor lists the folders; it raises UserError if one is missing or a file lacks its counterpart.
    """

    def __init__(self, config: ADE20KConfig, split: Literal["train", "val"], annotations_only: bool = False) -> None:
        self.info = config.info
        root = _existing_root(config.root.expanduser())
        if split == "train":
            images, annotations = config.train_images, config.train_annotations
        else:
            images, annotations = config.val_images, config.val_annotations
        self._images, self._annotations = root / images, root / annotations
        names = label_names = _list_files(self._annotations, {".png"}, "annotation", f"data.{split}_annotations")
        if not annotations_only:
            names = _list_files(self._images, IMAGE_SUFFIXES, "image", f"data.{split}_images")
            _check_paired(self._images, names, self._annotations, label_names, "annotation")
            _check_paired(self._annotations, label_names, self._images, names, "image")
        self._names = Names(names[stem] for stem in sorted(names))
        self._first_label = config.first_label
        self._ignore_labels = config.ignore_labels
        self._labels = np.full(2**16, UNKNOWN, np.int16)  # file value -> label
        self._labels[config.first_label :][: self.info.num_classes] = np.arange(self.info.num_classes)
        self._labels[list(config.ignore_labels)] = IGNORE

    def __len__(self) -> int:
        return len(self._names)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return Path(self._names[index]).stem

    def survey(self) -> Survey:
        """Count the pixels of each class."""
        return Survey("pixels", {})

    def load(self, index: int) -> Sample:
        """The image and its label map. Raises UserError if one of them is unusable or their sizes differ."""
        path = self._images / self._names[index]
        image = read_image(path)
        annotation = self._annotation(index)
        semantic = self._read_labels(annotation)
        if semantic.shape != image.shape[:2]:
            (h, w), (height, width) = semantic.shape, image.shape[:2]
            what = f"is {w} x {h} pixels (width x height) but {path.name} is displayed at {width} x {height}"
            raise UserError(annotation, what, "give the annotation the size and orientation of its image")
        return Sample(path.stem, image.shape[:2], image, semantic=semantic)

    def target(self, index: int) -> Target:
        """The label map at original size; reads no image."""
        annotation = self._annotation(index)
        semantic = self._read_labels(annotation)
        height, width = semantic.shape
        return Target(annotation.stem, (height, width), semantic=torch.from_numpy(semantic))

    def _annotation(self, index: int) -> Path:
        return self._annotations / f"{Path(self._names[index]).stem}.png"

    def _read_labels(self, path: Path) -> np.ndarray:
        values = read_label_map(path)
        labels = self._labels[values]
        if labels.min() == UNKNOWN:
            row, column = np.argwhere(labels == UNKNOWN)[0]
            last = self._first_label + self.info.num_classes - 1
            ignored = ", ".join(map(str, self._ignore_labels)) or "none"
            what = f"value {values[row, column]} at row {row}, column {column} is not a class"
            what += f" (classes: {self._first_label} to {last}; ignored: {ignored})"
            raise UserError(path, what, "correct the file, or data.classes, data.first_label, data.ignore_labels")
        return labels


def _check_paired(
    folder: Path, names: dict[str, str], other_folder: Path, other_names: dict[str, str], other: str
) -> None:
    unpaired = sorted(names.keys() - other_names.keys())
    if unpaired:
        more = f" (the same holds for {len(unpaired) - 1} more files)" if len(unpaired) > 1 else ""
        what = f"no {other} with this stem in {other_folder}{more}"
        raise UserError(folder / names[unpaired[0]], what, f"add the {other} or remove this file")


def _existing_root(root: Path) -> Path:
    inner = root / "ADEChallengeData2016"
    if os.path.isdir(inner):  # unlike Path.is_dir, raises no error if a folder may not be entered
        raise UserError(root, "is one folder too high", f"set data.root={inner}")
    if problem := problem_with(root, "folder"):
        raise UserError(root, problem, f"unpack {DOWNLOAD} and set data.root to its ADEChallengeData2016")
    return root


def _list_files(folder: Path, suffixes: Collection[str], kind: str, key: str) -> dict[str, str]:
    if problem := problem_with(folder, "folder"):
        what = f"{problem}, which the ADE20K layout needs"
        raise UserError(folder, what, f"check data.root, or set {key} to the folder's path below it")
    names = list_by_stem(folder, suffixes)
    if not names:
        what = f"holds no {kind} ({' '.join(sorted(suffixes))})"
        raise UserError(folder, what, f"put the {kind}s there, or set {key} to the folder that has them")
    return names
