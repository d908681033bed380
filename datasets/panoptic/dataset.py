"""COCO 2017, panoptic (Kirillov et al., CVPR 2019), and any data in the same form.

Each split is a folder of images, a JSON file and a folder of PNGs; classes and paths are set in the YAML.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt, model_validator

from config import Schema
from datasets.base import DenseDataset, Doubt, ImageRange, Objects, RepeatThreshold, Sample, Survey
from datasets.coco.annotations import Annotations, Crowds, read_annotations
from datasets.coco.categories import advice_on_classes, file_with_classes
from datasets.coco.dataset import TRAIN_ANNOTATIONS as TRAIN_INSTANCES
from datasets.coco.dataset import aspect_groups, check_listed_images, check_names, read_listed_image
from datasets.coco.doubts import image_doubts
from datasets.coco.json_file import EntryErrors
from datasets.coco.objects import training_boxes, training_objects
from datasets.coco.survey import large_images, no_image, protocol
from datasets.files.folders import other_files
from datasets.files.images import IMAGE_SUFFIXES
from datasets.files.paths import check_path, check_root, resolve_path
from datasets.files.unusable import OnError
from datasets.frequency import Occurrences
from datasets.panoptic.annotations import read_categories, read_segments
from datasets.panoptic.categories import CATEGORIES, Category, Classes
from datasets.panoptic.ids import boxes_of, read_segment_map
from datasets.panoptic.predictions import PanopticFiles
from datasets.panoptic.survey import Split, segment_doubts, segment_occurrences, survey
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import IGNORE, DatasetInfo, Panoptic, Target

TRAIN_ANNOTATIONS = "annotations/panoptic_train2017.json"


class COCOPanopticConfig(Schema):
    """root: the folder with `annotations`, `train2017` and `val2017`; the other paths are relative to it, or absolute.

    classes: category id -> name and isthing; labels follow the ascending order of the ids, things and stuff together.
    Segments of other categories become void, in both splits, and are counted. None: the official 133. But if
    train_annotations is set to another file, None stands for that file's categories; they are read when the
    configuration is loaded and stored here, so that a checkpoint contains its classes. Mappings merge: to replace
    classes that are already set, write `data.classes=null` before `data.classes={...}`.
    crowds: what iscrowd 1 means: "ignore": a group of things; "objects": nothing, see `COCOConfig`.
    train_segments, val_segments: the folders of PNGs. None: beside the JSON file, with the same name without `.json`.
    things_from: where boxes and masks to train on come from: the panoptic files, in which objects never overlap, or
    train_instances, a COCO instances file of the same images and things. Semantic maps always come from the former.
    train_empty_images: also train on images without any thing, as is done anyway if none of the classes is a thing.
    min_side: do not train on images with a shorter side.
    aspect_grouping: this many consecutive training images are all wider than tall, or all not, which saves padding.
    on_error: what to do with an unusable image or annotation: "stop" with an error, or "skip" and list it (see
    `COCOPanoptic`). image_range: see `ImageRange`.
    """

    name: Literal["coco_panoptic"] = "coco_panoptic"
    root: Path
    classes: Classes = None
    train_images: str = "train2017"
    val_images: str = "val2017"
    train_annotations: str = TRAIN_ANNOTATIONS
    val_annotations: str = "annotations/panoptic_val2017.json"
    train_segments: str | None = None
    val_segments: str | None = None
    things_from: Literal["panoptic", "instances"] = "panoptic"
    train_instances: str = TRAIN_INSTANCES
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
        return values if path is None else {**values, "classes": read_categories(path)}

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        check_names(self.info.classes)
        if len(self.info.classes) > 2**15:
            raise ValueError("has more than 32768 classes; semantic maps hold 16 bits")
        return self

    @property
    def _categories(self) -> dict[int, Category]:
        """The categories by ascending id."""
        return dict(sorted((CATEGORIES if self.classes is None else self.classes).items()))

    @property
    def info(self) -> DatasetInfo:
        """The task and the classes; needs no data on disk."""
        categories = self._categories.values()
        classes, things = tuple(item.name for item in categories), tuple(item.isthing for item in categories)
        return DatasetInfo(task="panoptic", name=self.name, classes=classes, things=things)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each label, in label order."""
        return tuple(self._categories)

    def build(self, split: Literal["train", "val"], annotations_only: bool = False) -> "COCOPanoptic":
        """The dataset of one split. Raises UserError if a file is missing or an entry is unusable (see on_error).

        annotations_only: for scoring without images on disk; then `target` works, `load` does not.
        """
        return COCOPanoptic(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> PanopticFiles:
        """COCO panoptic results in `folder`, or at `folder` if that is a .json file; needs no data on disk."""
        return PanopticFiles(folder, self.category_ids)


class COCOPanoptic(DenseDataset):
    """The images of one annotation file, ordered by id; the id as decimal text is their `image_id`.

    A training sample has the things as objects, including crowds with their flag, and a semantic map in which every
    segment, crowds too, has its label and void is IGNORE. Objects that cannot be learned from are left out as in
    `COCO`, and so are small images and images without any thing (a crowd counts as one). An evaluation sample has the
    panoptic map.

    The constructor checks the JSON and that every file exists. With on_error "skip", unusable entries are listed in
    `unusable`: an image is skipped as a whole if its entry, its annotation or one of its segments is unusable or
    missing; of train_instances, single objects are skipped. `load` and `target` read pixels; unusable ones always raise
    an error there: a PNG must have the size and exactly the ids that the JSON lists. Areas in the JSON are ignored, and
    a missing box is taken from the PNG.
    """

    def __init__(
        self, config: COCOPanopticConfig, split: Literal["train", "val"], annotations_only: bool = False
    ) -> None:
        self.info = config.info
        self._training = split == "train"
        root = resolve_path(config.root, "")
        if self._training:
            images, file, pngs = config.train_images, config.train_annotations, config.train_segments
        else:
            images, file, pngs = config.val_images, config.val_annotations, config.val_segments
        self._folder, self._file = resolve_path(root, images), resolve_path(root, file)
        self._pngs = self._file.with_suffix("") if pngs is None else resolve_path(root, pngs)
        check_root(root, "COCO 2017", "prepare_coco")
        check_path(self._file, "file", f"{split}_annotations")
        check_path(self._pngs, "folder", f"{split}_segments")
        if not annotations_only:
            check_path(self._folder, "folder", f"{split}_images")
        entry_errors = EntryErrors(self._file, config.on_error)
        self._segments = read_segments(
            self._file,
            config._categories,
            images=None if annotations_only else self._folder,
            pngs=self._pngs,
            entry_errors=entry_errors,
            crowds=config.crowds,
            advice=advice_on_classes(split, config.train_annotations != TRAIN_ANNOTATIONS),
        )
        self.unusable = entry_errors.errors
        self.protocol = protocol(config.crowds, self._segments.others)
        self._min_side, self._image_range = config.min_side, config.image_range
        self._images = np.arange(len(self._segments.image_ids))  # each image's row in the segments
        self._things = np.array([*self.info.things, False])  # by label; the last is IGNORE
        self._instances: Annotations | None = None
        if self._training and config.things_from == "instances":
            self._read_instances(resolve_path(root, config.train_instances), config, entry_errors)
        self._wanted = self._with_things(config)
        if self._training:
            large = large_images(self._segments, config.min_side)
            self._images = self._images[(self._wanted & large)[self._images]]
            if not len(self._images):
                do = "set data.train_empty_images=true, or name other annotations"
                raise no_image(self._file, self._segments, self._wanted, "a thing", config.min_side, self.skipped, do)
            self.repeat_threshold = config.repeat_threshold
            if config.aspect_grouping:
                self.groups = aspect_groups(self._segments.sizes[self._images])
                self.group_size = config.aspect_grouping

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return str(self._segments.image_ids[self._images[index]])

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its PNG."""
        row = self._images[index]
        return self._folder / self._segments.names[row], self._pngs / self._segments.files[row]

    def doubts(self) -> list[Doubt]:
        """Images that two entries name or that are too small, and things that cannot be learnt, in either split."""
        min_side = self._min_side if self._training else None
        of_images = image_doubts(self._file, self._folder, self._segments, self._images, min_side)
        return [*of_images, *segment_doubts(self._split())]

    def unnamed_files(self) -> dict[Path, list[Path]]:
        """Images and PNGs that the annotation file does not name."""
        return {
            self._folder: other_files(self._folder, IMAGE_SUFFIXES, self._segments.names),
            self._pngs: other_files(self._pngs, frozenset({".png"}), self._segments.files),
        }

    def occurrences(self) -> Occurrences:
        """The segments of each class that are learnt from."""
        return segment_occurrences(self._split())

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        """Count the segments of each class that are learnt from or scored, and those that are left out by reason."""
        looked_at = self._images if images is None else self._images[list(images)]
        check_listed_images(self._folder, self._segments, looked_at, self._image_range)
        return survey(self._split(), self.skipped)

    def _split(self) -> Split:
        instances = None
        if self._instances is not None:
            instances = self._instances, self._instance_rows[self._images]
        return Split(
            self._file, self.info, self._training, self._segments, self._images, self._wanted, self._min_side, instances
        )

    def load(self, index: int) -> Sample:
        """The image and its annotation. Raises UserError if one is unusable or its size differs from the JSON's."""
        image = self._images[index]
        pixels = read_listed_image(self._folder, self._segments, image, self._file, self._image_range)
        return self._sample(image, pixels)

    def target(self, index: int) -> Target:
        """The annotation at original size; reads the PNG, but not the image."""
        return self._sample(self._images[index], pixels=np.empty((0, 0, 3), np.uint8)).target()

    def _read_instances(self, path: Path, config: COCOPanopticConfig, entry_errors: EntryErrors) -> None:
        """Read the things from a file of instances; leave out images that are not in it."""
        check_path(path, "file", "train_instances")
        things = {category_id: item.name for category_id, item in config._categories.items() if item.isthing}
        own_entry_errors = EntryErrors(path, config.on_error)
        advice = "name a file with these things and images as data.train_instances, or set data.things_from=panoptic"
        found = read_annotations(
            path,
            things,
            masks=True,
            images=None,
            entry_errors=own_entry_errors,
            crowds=config.crowds,
            classes_name="the things of data.classes",
            advice=lambda *_: advice,
        )
        self._instances = replace(found, labels=np.flatnonzero(self._things)[found.labels])
        self._instance_rows = np.searchsorted(found.image_ids, self._segments.image_ids)
        usable = []
        for image, row in enumerate(self._instance_rows):
            image_id = self._segments.image_ids[image]
            if row == len(found.image_ids) or found.image_ids[row] != image_id:
                entry_errors.add(f"image {image_id}", f"is not in {path}")
            elif found.size(row) != self._segments.size(image):
                entry_errors.add(f"image {image_id}", f"has another size in {path}")
            else:
                usable.append(image)
        if not usable:
            raise UserError(path, f"has no image of {self._file}", advice)
        self._images = np.array(usable)
        self.unusable = [*entry_errors.errors, *own_entry_errors.errors]

    def _with_things(self, config: COCOPanopticConfig) -> np.ndarray:
        """Which images have something to train on, whatever their size: [M] bool."""
        segments, usable = self._segments, np.zeros(len(self._segments.image_ids), bool)
        usable[self._images] = True
        if config.train_empty_images or not self._things.any():
            return usable
        if self._instances is not None:
            usable[usable] = np.diff(self._instances.offsets)[self._instance_rows[usable]] > 0
            return usable
        image_rows = np.repeat(np.arange(len(usable)), np.diff(segments.offsets))
        return usable & (np.bincount(image_rows, self._things[segments.labels], minlength=len(usable)) > 0)

    def _sample(self, image: int, pixels: np.ndarray) -> Sample:
        segments, size = self._segments, self._segments.size(image)
        rows, image_id = segments.rows(image), str(segments.image_ids[image])
        path, where = self._pngs / segments.files[image], f"image {image_id} of {self._file}"
        found = read_segment_map(path, size, segments.ids[rows], where)
        ids = found.ids
        if self._training:
            semantic = found.spread(segments.labels[rows], void=IGNORE)
            return Sample(image_id, size, pixels, semantic=semantic, objects=self._objects(image, ids))
        if segments.others:
            ids = np.where(found.spread(segments.labels[rows] == IGNORE, void=False), np.int32(0), ids)
            rows = rows[segments.labels[rows] != IGNORE]
        segment_ids = segments.ids[rows].tolist()
        labels = dict(zip(segment_ids, segments.labels[rows].tolist(), strict=True))
        crowd = dict(zip(segment_ids, segments.crowd[rows].tolist(), strict=True))
        return Sample(image_id, size, pixels, panoptic=Panoptic(torch.from_numpy(ids), labels, crowd))

    def _objects(self, image: int, ids: np.ndarray) -> Objects:
        if self._instances is not None:
            return training_objects(self._instances, self._instance_rows[image])
        segments, rows = self._segments, self._segments.rows(image)
        rows = rows[self._things[segments.labels[rows]]]
        xywh = segments.boxes[rows]
        missing = np.isnan(xywh).any(axis=1)
        xywh[missing] = boxes_of(ids, segments.ids[rows[missing]])
        boxes, kept = training_boxes(xywh, segments.size(image))
        rows = rows[kept]
        masks = ids == segments.ids[rows][:, None, None]
        return Objects(boxes[kept], segments.labels[rows].astype(np.int64), segments.crowd[rows], masks=masks)
