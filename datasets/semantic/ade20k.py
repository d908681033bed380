"""ADE20K, scene parsing version with 150 classes (Zhou et al., CVPR 2017), and any data in the same form.

Each split is a folder of images and a folder of label PNGs with the same names; classes, folders and the meaning of
label values are set in the YAML. Cityscapes and Pascal VOC need these settings, beside root:

    # Cityscapes, as unpacked
    classes: [road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky,
              person, rider, car, truck, bus, train, motorcycle, bicycle]
    train_images: leftImg8bit/train
    train_annotations: gtFine/train
    val_images: leftImg8bit/val
    val_annotations: gtFine/val
    image_suffix: _leftImg8bit.png
    label_suffix: _gtFine_labelIds.png
    label_values: {7: road, 8: sidewalk, 11: building, 12: wall, 13: fence, 17: pole, 19: traffic light,
                   20: traffic sign, 21: vegetation, 22: terrain, 23: sky, 24: person, 25: rider, 26: car, 27: truck,
                   28: bus, 31: train, 32: motorcycle, 33: bicycle}
    ignore_labels: [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]

    # Pascal VOC 2012, root: VOCdevkit/VOC2012; most of its images have no label map
    classes: [background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
              motorbike, person, pottedplant, sheep, sofa, train, tvmonitor]
    train_images: JPEGImages
    train_annotations: SegmentationClass
    train_list: ImageSets/Segmentation/train.txt
    val_images: JPEGImages
    val_annotations: SegmentationClass
    val_list: ImageSets/Segmentation/val.txt
    first_label: 0
    ignore_labels: [255]
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, model_validator

from config import Schema
from datasets.base import DenseDataset, ImageRange, RepeatThreshold, Sample, Survey
from datasets.files.folders import evenly_spread, other_files, split_end
from datasets.files.images import IMAGE_SUFFIXES, check_image_range, read_image
from datasets.files.paths import check_root, resolve_path
from datasets.files.unusable import OnError, Unusable
from datasets.frequency import Occurrences
from datasets.semantic.labels import LabelTable, single_class_advice
from datasets.semantic.pairing import (
    LABEL_SUFFIXES,
    find_images,
    find_label_maps,
    pair,
    read_names,
    select,
)
from datasets.semantic.predictions import SemanticFiles
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import DatasetInfo, Target

SURVEYED_MAPS, SURVEYED_IMAGES = 256, 16  # read at most so many before the start, evenly spread

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

    classes: names in label order; None: the official 150. The folders are relative to root; of a folder without such
    files itself, the subfolders are searched. image_suffix, label_suffix: how the names of the images and of the label
    maps end, where they are not just the same name; other files are not read. train_list, val_list: text files,
    relative to root, that name the images to use, one a line; None: use all images, each of which must have a label
    map.
    first_label: the value of class 0 in the PNGs; the other classes follow. label_values: instead, the class of each
    value; several values may be one class. ignore_labels: values of pixels to ignore. All other values are errors.
    ADE20K: first_label 1, ignore_labels [0]. on_error: what to do with an image or a label map without counterpart:
    "stop" with an error, or "skip" and list it. image_range: see `ImageRange`. repeat_threshold: see `RepeatThreshold`;
    with it all label maps are read at the start.
    """

    name: Literal["ade20k"] = "ade20k"
    root: Path
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=2**15)] | None = None
    train_images: str = "images/training"
    train_annotations: str = "annotations/training"
    train_list: str | None = None
    val_images: str = "images/validation"
    val_annotations: str = "annotations/validation"
    val_list: str | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    first_label: NonNegativeInt = 1
    label_values: Annotated[dict[NonNegativeInt, str], Field(min_length=1)] | None = None
    ignore_labels: tuple[NonNegativeInt, ...] = (0,)
    on_error: OnError = "stop"
    image_range: ImageRange = None
    repeat_threshold: RepeatThreshold = None
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        classes = self.info.classes
        if len(set(classes)) < len(classes):
            duplicate = next(name for name in classes if classes.count(name) > 1)
            raise ValueError(f"class {duplicate} appears twice in classes; give every class its own name")
        self._check_label_values(classes)
        values = self.values
        if max(*values, *self.ignore_labels) >= 2**16:
            raise ValueError("first_label, label_values or ignore_labels go beyond 65535; PNGs hold 16 bits")
        conflicts = [value for value in self.ignore_labels if value in values]
        if conflicts:
            what = f"ignore_labels names {conflicts[0]}, which is class {classes[values[conflicts[0]]]}"
            numbers = f"{min(values)} to {max(values)}" if self.label_values is None else "in label_values"
            raise ValueError(f"{what}; classes take the values {numbers}, ignore others")
        if len(classes) == 1:
            what = f"{classes[0]} is the only class, and all pixels that are not ignored have it: nothing can be learnt"
            raise ValueError(f"{what}; {single_class_advice(classes[0], min(values), self.ignore_labels)}")
        suffix = os.path.splitext(self.label_suffix)[1].lower()
        if suffix in IMAGE_SUFFIXES - LABEL_SUFFIXES:
            raise ValueError(f"label_suffix names {suffix} files; store labels as PNG, which keeps them exactly")
        return self

    def _check_label_values(self, classes: tuple[str, ...]) -> None:
        if self.label_values is None:
            return
        unknown = [name for name in self.label_values.values() if name not in classes]
        missing = [name for name in classes if name not in self.label_values.values()]
        if unknown:
            raise ValueError(f"label_values names {unknown[0]}, which is not in classes; add it there, or correct it")
        if missing:
            raise ValueError(f"label_values has no value for class {missing[0]}; add one, or remove the class")

    @property
    def values(self) -> dict[int, int]:
        """The label of each value in the PNGs that is a class."""
        classes = self.info.classes
        if self.label_values is not None:
            return {value: classes.index(name) for value, name in self.label_values.items()}
        return {self.first_label + label: label for label in range(len(classes))}

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
    """Images and label maps, paired and sorted by id: the path below their folder, without suffix, `/` written as `_`.

    The constructor lists the folders; it raises UserError if one is missing. A file without counterpart, or with the id
    of another one, is unusable; so is a line of a list that names such a file or repeats one.
    """

    def __init__(self, config: ADE20KConfig, split: Literal["train", "val"], annotations_only: bool = False) -> None:
        self.info = config.info
        if split == "train":
            self.info = replace(config.info, frequencies=self.frequencies)
            self.repeat_threshold = config.repeat_threshold
        root = _existing_root(resolve_path(config.root, ""))
        if split == "train":
            images, annotations, listed = config.train_images, config.train_annotations, config.train_list
        else:
            images, annotations, listed = config.val_images, config.val_annotations, config.val_list
        self._images, self._annotations = root / images, root / annotations
        key = f"data.{split}_list"
        unusable = Unusable(config.on_error)
        label_paths = find_label_maps(self._annotations, config.label_suffix, f"data.{split}_annotations", unusable)
        image_paths = label_paths
        if not annotations_only:
            image_paths = find_images(self._images, config.image_suffix, f"data.{split}_images", unusable)
        if listed is not None:
            file = resolve_path(root, listed)
            names = read_names(file, key, config.image_suffix, unusable)
            label_paths = select(label_paths, names, file, self._annotations, "annotation", unusable)
            image_paths = select(image_paths, names, file, self._images, "image", unusable)
        paired = pair(self._images, image_paths, self._annotations, label_paths, key, unusable)
        self._ids, self._image_paths, self._label_paths = paired
        self.unusable = unusable.errors
        self._has_list = listed is not None
        self._ends = (
            split_end(config.image_suffix, IMAGE_SUFFIXES),
            split_end(config.label_suffix, LABEL_SUFFIXES),
        )
        in_order = config.label_values is None
        self._table = LabelTable(config.values, config.ignore_labels, self.info.classes, in_order)
        self._image_range = config.image_range
        self._has_images = not annotations_only

    def __len__(self) -> int:
        return len(self._ids)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return self._ids[index]

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its label map."""
        return self._image(index), self._annotation(index)

    def unnamed_files(self) -> dict[Path, list[Path]]:
        """Images and label maps without counterpart, and those in subfolders that are not searched."""
        if self._has_list:
            return {}
        folders, names = (self._images, self._annotations), (self._image_paths, self._label_paths)
        return {
            folder: other_files(folder, suffixes, known, end)
            for folder, known, (end, suffixes) in zip(folders, names, self._ends, strict=True)
        }

    def occurrences(self) -> Occurrences:
        """The pixels of each class in each label map; reads all."""
        counts = [self._table.by_class(self._table.count(self._annotation(index))) for index in range(len(self))]
        images, labels = np.nonzero(np.stack(counts))
        return Occurrences(images, labels, np.stack(counts)[images, labels])

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        """Count the pixels of each class, in a sample of large sets; also look at the values of a few images.

        Raises UserError if not one pixel has a class, or if a file of the sample is unusable.
        """
        looked_at = range(len(self)) if images is None else images
        sample = evenly_spread(len(self), SURVEYED_MAPS) if images is None else images
        counts, complete = self._count(sample), len(sample) == len(self)
        if len(sample) < len(looked_at) and not self._table.by_class(counts).any():
            counts, complete, sample = self._count(looked_at), True, looked_at
        self._table.check_labelled(counts, self._annotations, len(sample))
        if self._has_images:
            few = evenly_spread(len(looked_at), SURVEYED_IMAGES)
            check_image_range([self._image(looked_at[row]) for row in few], self._image_range)
        by_class = self._table.by_class(counts)
        return Survey(
            "pixels",
            dict(zip(self.info.classes, by_class.tolist(), strict=True)),
            {"ignored": int(counts.sum() - by_class.sum())},
            self._table.warnings(counts, complete),
            "" if complete else f"{len(sample)} of {len(self)} label maps",
        )

    def load(self, index: int) -> Sample:
        """The image and its label map. Raises UserError if one of them is unusable or their sizes differ."""
        path, annotation = self._image(index), self._annotation(index)
        image, semantic = read_image(path, self._image_range or "full"), self._table.read(annotation)
        if semantic.shape != image.shape[:2]:
            (h, w), (height, width) = semantic.shape, image.shape[:2]
            what = f"is {w} x {h} pixels (width x height) but {path.name} is displayed at {width} x {height}"
            raise UserError(annotation, what, "give the annotation the size and orientation of its image")
        return Sample(self._ids[index], image.shape[:2], image, semantic=semantic)

    def target(self, index: int) -> Target:
        """The label map at original size; reads no image."""
        semantic = self._table.read(self._annotation(index))
        height, width = semantic.shape
        return Target(self._ids[index], (height, width), semantic=torch.from_numpy(semantic))

    def _image(self, index: int) -> Path:
        return self._images / self._image_paths[index]

    def _annotation(self, index: int) -> Path:
        return self._annotations / self._label_paths[index]

    def _count(self, indices: Iterable[int]) -> np.ndarray:
        """The number of pixels of each value in these maps: [65536] int64."""
        return sum((self._table.count(self._annotation(index)) for index in indices), np.zeros(2**16, np.int64))


def _existing_root(root: Path) -> Path:
    inner = root / "ADEChallengeData2016"
    if os.path.isdir(inner):  # unlike Path.is_dir, raises no error if a folder may not be entered
        raise UserError(root, "is one folder too high", f"set {shlex.quote(f'data.root={inner}')}")
    check_root(root, "ADE20K", "prepare_ade20k")
    return root
