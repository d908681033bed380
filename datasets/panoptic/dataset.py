"""COCO 2017, panoptic (Kirillov et al., CVPR 2019), and any data in the same form.

That form is a folder of images, a JSON file and a folder of PNGs per split; classes and paths are set in the YAML.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, model_validator

from config import Schema
from datasets.base import DenseDataset, Objects, Sample
from datasets.coco import dataset as coco
from datasets.coco.annotations import Annotations, read_annotations
from datasets.coco.json_file import Faults, OnError, file_with_classes
from datasets.files.paths import below, check_path, check_root
from datasets.panoptic.annotations import Category, read_categories, read_segments
from datasets.panoptic.ids import read_segment_ids
from datasets.panoptic.predictions import PanopticFiles
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import IGNORE, DatasetInfo, Panoptic, Target

PANOPTIC_ZIP = "panoptic_annotations_trainval2017.zip and the two zips inside it"
DOWNLOAD = f"train2017.zip, val2017.zip, {PANOPTIC_ZIP} from http://images.cocodataset.org"
TRAIN_ANNOTATIONS = "annotations/panoptic_train2017.json"

STUFF = {
    int(number): name
    for number, name in (
        entry.split(" ", 1)
        for entry in """92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff,
    118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff, 138 net, 141 pillow,
    144 platform, 145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand, 155 sea, 156 shelf, 159 snow,
    161 stairs, 166 tent, 168 towel, 171 wall-brick, 175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other,
    180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged, 186 ceiling-merged, 187 sky-other-merged,
    188 cabinet-merged, 189 table-merged, 190 floor-other-merged, 191 pavement-merged, 192 mountain-merged,
    193 grass-merged, 194 dirt-merged, 195 paper-merged, 196 food-other-merged, 197 building-other-merged,
    198 rock-merged, 199 wall-other-merged, 200 rug-merged""".replace("\n    ", " ").split(", ")
    )
}
CLASSES = {
    **{number: Category(name=name, isthing=True) for number, name in coco.CLASSES.items()},
    **{number: Category(name=name, isthing=False) for number, name in STUFF.items()},
}


def _check_mapping(value: Any) -> Any:
    """Raises ValueError unless it is None, or could be a mapping of ids to categories."""
    categories = value.values() if isinstance(value, dict) else [value]
    if value is None or all(
        isinstance(item, Category) or (isinstance(item, dict) and item.keys() == {"name", "isthing"})
        for item in categories
    ):
        return value
    example = "{1: {name: person, isthing: true}, 92: {name: banner, isthing: false}}"
    raise ValueError(f"is not a mapping of category ids to names and kinds; write for example {example}")


Classes = Annotated[dict[NonNegativeInt, Category] | None, BeforeValidator(_check_mapping)]


class COCOPanopticConfig(Schema):
    """root: the folder with `annotations`, `train2017` and `val2017`; the other paths are relative to it, or absolute.

    classes: category id -> name and isthing; labels are the ranks of the ids, among things and stuff together. None:
    the official 133; or, where train_annotations is set to another file, that file's categories, which are read at once
    and kept here, so that a checkpoint knows its classes. Mappings merge: to replace classes that are set already,
    write `data.classes=null` before `data.classes={...}`.
    train_segments, val_segments: the folders of PNGs. None: beside the JSON file, of the same name without `.json`.
    things_from: boxes and masks to train on come from the panoptic files, where no two objects overlap, or from
    train_instances, a file of COCO's instances of the same images and things; the semantic map always from the former.
    train_empty_images: train on images without any thing, too. min_side: train on no image with a shorter side.
    aspect_grouping: so many consecutive training images are all wider than tall, or all not, which saves padding.
    on_error: what an unusable image or annotation does: stop with an error, or be left out and listed (see
    `COCOPanoptic`).
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
    train_instances: str = coco.TRAIN_ANNOTATIONS
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
        path = file_with_classes(values, TRAIN_ANNOTATIONS)
        return values if path is None else {**values, "classes": read_categories(path)}

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        coco.check_names(self.info.classes)
        if len(self.info.classes) > 2**15:
            raise ValueError("has more than 32768 classes; semantic maps hold 16 bits")
        return self

    @property
    def _categories(self) -> dict[int, Category]:
        """By ascending id."""
        return dict(sorted((CLASSES if self.classes is None else self.classes).items()))

    @property
    def info(self) -> DatasetInfo:
        """Task and classes; needs no data on disk."""
        categories = self._categories.values()
        classes, things = tuple(item.name for item in categories), tuple(item.isthing for item in categories)
        return DatasetInfo(task="panoptic", name=self.name, classes=classes, things=things)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's id of every label, in label order."""
        return tuple(self._categories)

    def build(self, split: Literal["train", "val"], annotations_only: bool = False) -> "COCOPanoptic":
        """One split. Raises UserError if its files are not all there, or an entry is unusable (see on_error).

        annotations_only: for scoring, where no image needs to be on disk; `target` works, `load` does not.
        """
        return COCOPanoptic(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> PanopticFiles:
        """COCO's panoptic results in `folder`, or the JSON file that it names and its PNGs; needs no data on disk."""
        return PanopticFiles(folder, self.category_ids)


class COCOPanoptic(DenseDataset):
    """The images of one annotation file by ascending id, which is their `image_id`, as decimal text.

    A training sample has the things as objects, crowds among them and marked as such, and a semantic map in which every
    segment has its label, crowds too, and void is ignored. Objects that teach nothing are left out as in `COCO`, and
    so are small images and those without any thing (a crowd is one). An evaluation sample has the panoptic map.

    Construction checks the JSON and that every file exists. What on_error "skip" leaves out is in `skipped`: an image
    of which an entry, an annotation or a segment is unusable or missing is left out as a whole, and of train_instances
    single objects. Pixels are read by `load` and `target`, where unusable ones always stop: a PNG must have the size
    that the JSON says and exactly the ids that it lists. Areas in the JSON do not matter.
    """

    def __init__(
        self, config: COCOPanopticConfig, split: Literal["train", "val"], annotations_only: bool = False
    ) -> None:
        self.info = config.info
        self._training = split == "train"
        root = below(config.root, "")
        if self._training:
            images, file, pngs = config.train_images, config.train_annotations, config.train_segments
        else:
            images, file, pngs = config.val_images, config.val_annotations, config.val_segments
        self._folder, self._file = below(root, images), below(root, file)
        self._pngs = self._file.with_suffix("") if pngs is None else below(root, pngs)
        check_root(root, DOWNLOAD)
        check_path(self._file, "file", f"{split}_annotations")
        check_path(self._pngs, "folder", f"{split}_segments")
        if not annotations_only:
            check_path(self._folder, "folder", f"{split}_images")
        faults = Faults(self._file, config.on_error)
        self._segments = read_segments(
            self._file,
            config._categories,
            images=None if annotations_only else self._folder,
            pngs=self._pngs,
            faults=faults,
        )
        self.skipped = faults.lines
        self._images = np.arange(len(self._segments.image_ids))  # row in the segments of every image
        self._things = np.array(self.info.things)
        self._instances: Annotations | None = None
        if self._training and config.things_from == "instances":
            self._read_instances(below(root, config.train_instances), config, faults)
        if self._training:
            self._images = self._images[self._trainable(self._images, config)]
            if not len(self._images):
                what = f"no image has a thing and sides of at least {config.min_side} pixels"
                raise UserError(self._file, what, "name other annotations, or lower data.min_side")
            if config.aspect_grouping:
                self.groups = coco.wide(self._segments.sizes[self._images])
                self.group_size = config.aspect_grouping

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> Sample:
        """Image and annotation. Raises UserError if one is unusable or has not the size that the JSON says."""
        image = self._images[index]
        return self._sample(image, coco.read_listed(self._folder, self._segments, image, self._file))

    def target(self, index: int) -> Target:
        """The annotation at original size; opens the PNG, but not the image."""
        return self._sample(self._images[index], pixels=np.empty((0, 0, 3), np.uint8)).target()

    def _read_instances(self, path: Path, config: COCOPanopticConfig, faults: Faults) -> None:
        """Take the things from a file of instances; leave out images that are not in it."""
        check_path(path, "file", "train_instances")
        things = {number: category.name for number, category in config._categories.items() if category.isthing}
        own_faults = Faults(path, config.on_error)
        advice = "name a file with these things and images as data.train_instances, or set data.things_from=panoptic"
        found = read_annotations(
            path,
            things,
            masks=True,
            images=None,
            faults=own_faults,
            among="the things of data.classes",
            advice=advice,
        )
        self._instances = replace(found, labels=np.flatnonzero(self._things)[found.labels])
        self._instance_rows = np.searchsorted(found.image_ids, self._segments.image_ids)
        usable = []
        for image, row in enumerate(self._instance_rows):
            image_id = self._segments.image_ids[image]
            if row == len(found.image_ids) or found.image_ids[row] != image_id:
                faults.add(f"image {image_id}", f"is not in {path}")
            elif found.size(row) != self._segments.size(image):
                faults.add(f"image {image_id}", f"has another size in {path}")
            else:
                usable.append(image)
        if not usable:
            raise UserError(path, f"has no image of {self._file}", advice)
        self._images = np.array(usable)
        self.skipped = [*faults.lines, *own_faults.lines]

    def _trainable(self, images: np.ndarray, config: COCOPanopticConfig) -> np.ndarray:
        """Which of the images in these rows to train on: [len] bool."""
        segments = self._segments
        large = segments.sizes[images].min(axis=1) >= config.min_side
        if config.train_empty_images:
            return large
        if self._instances is not None:
            return large & (np.diff(self._instances.offsets)[self._instance_rows[images]] > 0)
        image_of = np.repeat(np.arange(len(segments.image_ids)), np.diff(segments.offsets))
        things = np.bincount(image_of, self._things[segments.labels], minlength=len(segments.image_ids))
        return large & (things[images] > 0)

    def _sample(self, image: int, pixels: np.ndarray) -> Sample:
        segments, size = self._segments, self._segments.size(image)
        rows, image_id = segments.rows(image), str(segments.image_ids[image])
        path, where = self._pngs / segments.files[image], f"image {image_id} of {self._file}"
        ids, places = read_segment_ids(path, size, segments.ids[rows], where)
        if self._training:
            semantic = np.append(segments.labels[rows], np.int16(IGNORE))[places]  # of the place -1, too
            return Sample(image_id, size, pixels, semantic=semantic, objects=self._objects(image, ids))
        keys = segments.ids[rows].tolist()
        labels = dict(zip(keys, segments.labels[rows].tolist(), strict=True))
        crowd = dict(zip(keys, segments.crowd[rows].tolist(), strict=True))
        return Sample(image_id, size, pixels, panoptic=Panoptic(torch.from_numpy(ids), labels, crowd))

    def _objects(self, image: int, ids: np.ndarray) -> Objects:
        if self._instances is not None:
            return coco.training_objects(self._instances, self._instance_rows[image])
        segments, rows = self._segments, self._segments.rows(image)
        rows = rows[self._things[segments.labels[rows]]]
        boxes, kept = coco.training_boxes(segments.boxes[rows], segments.size(image))
        rows = rows[kept]
        masks = ids == segments.ids[rows][:, None, None]
        return Objects(boxes[kept], segments.labels[rows].astype(np.int64), segments.crowd[rows], masks=masks)
