"""Read a COCO panoptic file (Kirillov et al., CVPR 2019): check every entry, and store all of them in a few arrays."""

import reprlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from config import Schema
from datasets.coco.json_file import (
    ADVICE_CORRECT,
    AnnotationFile,
    EntryErrors,
    Files,
    ImageIndex,
    advice_to_set_classes,
    check_classes,
    file_name_of,
    no_garbage_collection,
    offsets_of,
    read_images,
)
from datasets.coco.values import box_of, is_id
from datasets.files.folders import Names
from datasets.panoptic.ids import END
from errors import UserError
from structures import Size

OFFICIAL_FILE = "panoptic_train2017.json"


class Category(Schema):
    """One class. isthing: whether it is a thing, with separate objects; otherwise it is stuff."""

    name: Annotated[str, Field(min_length=1)]
    isthing: bool

    def __str__(self) -> str:
        return f"{self.name} ({'a thing' if self.isthing else 'stuff'})"


@dataclass(frozen=True)
class Segments(ImageIndex):
    """The content of one file: its images, and N segments, sorted by image and then in the order of the file.

    files: M names of PNGs, one per image, relative to their folder. ids: [N] int32, unique within an image. labels: [N]
    int16, 0..K-1. boxes: [N, 4] float32, xywh in pixels as in the file. crowd: [N] bool.
    """

    files: Names
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


@no_garbage_collection()
def read_segments(
    path: Path, classes: Mapping[int, Category], *, images: Path | None, pngs: Path, entry_errors: EntryErrors
) -> Segments:
    """Read a file's segments. Images with an unusable or missing entry are reported to `entry_errors` and left out.

    classes: by category id; labels number the ids in ascending order. images: the folder where every image must exist;
    None: do not check. pngs: the folder where every PNG must exist; the PNGs are not read.
    Raises UserError naming the file, and also the image unless the whole file is unusable.
    """
    file = AnnotationFile(path, OFFICIAL_FILE)
    categories = _categories(file)
    plain = {category_id: category.model_dump() for category_id, category in categories.items()}
    check_classes(path, categories, classes, advice_to_set_classes(plain))
    found, unusable = read_images(file.list_of("images"), images, entry_errors)
    labels = {category: label for label, category in enumerate(sorted(classes)) if category in categories}
    things = {category_id for category_id, category in categories.items() if category.isthing}
    reader = _SegmentReader(labels, things, Files(pngs))
    for number, record in enumerate(file.list_of("annotations")):
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if not is_id(image_id):
            entry_errors.add(f"annotations[{number}]", "has no integer image_id")
        elif image_id in unusable:
            continue
        else:
            try:
                if image_id not in found:
                    raise ValueError("there is no such image")
                reader.add(image_id, record)
            except ValueError as error:
                entry_errors.add(f"annotation of image {image_id}", str(error))
                unusable.add(image_id)
    for image_id in sorted(found.keys() - reader.images.keys() - unusable):
        entry_errors.add(f"image {image_id}", "has no annotation")
    usable = {image_id: found[image_id] for image_id in sorted(reader.images.keys() - unusable)}
    if not usable:
        raise UserError(path, "lists no usable image", "name another file")
    return reader.segments_of(usable)


@no_garbage_collection()
def read_categories(path: Path) -> dict[int, Category]:
    """The file's `categories` by id. Raises UserError if they or the file are unusable."""
    return _categories(AnnotationFile(path, OFFICIAL_FILE))


def _categories(file: AnnotationFile) -> dict[int, Category]:
    names, categories = file.categories(), {}
    for record in file.list_of("categories"):
        isthing = record.get("isthing")
        if isthing not in (0, 1):
            what = f"isthing is {reprlib.repr(isthing)}, neither 0 nor 1" if "isthing" in record else "has no isthing"
            raise UserError(f"{file.path}: category {record['id']}", what, ADVICE_CORRECT)
        categories[record["id"]] = Category(name=names[record["id"]], isthing=bool(isthing))
    return categories


class _SegmentReader:
    """Checks the annotations of images one by one and collects their segments in arrays.

    labels: by category id. things: the category ids of things. files: the names of all PNGs.
    images: by image id, the first row of its segments, the row after its last, and the name of its PNG.
    """

    def __init__(self, labels: dict[int, int], things: set[int], files: Files) -> None:
        self.images: dict[int, tuple[int, int, str]] = {}
        self._labels, self._things, self._files = labels, things, files
        self._integers = array("i")  # id, label, crowd
        self._boxes = array("f")

    def add(self, image_id: int, record: dict[str, Any]) -> None:
        """Add the annotation of one image. Raises ValueError if it is unusable."""
        if image_id in self.images:
            raise ValueError("appears twice")
        name = file_name_of(record, self._files, "PNGs")
        segments = labelled_segments(record, self._labels)
        # Check all segments before the first is stored.
        rows = [(i, label, self._crowd(i, segment), _box(i, segment)) for i, label, segment in segments]
        start = len(self._integers) // 3
        for segment_id, label, crowd, box in rows:
            self._integers.extend((segment_id, label, crowd))
            self._boxes.extend(box)
        self.images[image_id] = start, start + len(rows), name

    def _crowd(self, segment_id: int, segment: dict[str, Any]) -> int:
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"segment {segment_id}: iscrowd is {reprlib.repr(crowd)}, neither 0 nor 1")
        if crowd and segment["category_id"] not in self._things:
            raise ValueError(f"segment {segment_id}: iscrowd is 1, but category {segment['category_id']} is stuff")
        return int(crowd)

    def segments_of(self, images: dict[int, tuple[Size, str]]) -> Segments:
        """The segments of these images, all of which must have been added."""
        starts, ends, files = zip(*(self.images[image_id] for image_id in images), strict=True)
        lengths = np.subtract(ends, starts)
        offsets = offsets_of(lengths)
        rows = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        ids, labels, crowd = np.array(self._integers, np.int32).reshape(-1, 3)[rows].T
        return Segments(
            image_ids=np.array(list(images), np.int64),
            sizes=np.array([size for size, _ in images.values()], np.int64),
            names=Names(name for _, name in images.values()),
            offsets=offsets,
            files=Names(files),
            ids=ids.copy(),
            labels=labels.astype(np.int16),
            boxes=np.array(self._boxes, np.float32).reshape(-1, 4)[rows],
            crowd=crowd.astype(bool),
        )


def labelled_segments(record: dict[str, Any], labels: Mapping[int, int]) -> list[tuple[int, int, dict[str, Any]]]:
    """Id, label and entry of each segment in the `segments_info` of a record, an annotation or a result.

    labels: by category id. Raises ValueError if the record is unusable.
    """
    segments = record.get("segments_info")
    if not isinstance(segments, list):
        raise ValueError("has no list segments_info")
    found: dict[int, tuple[int, int, dict[str, Any]]] = {}
    for number, segment in enumerate(segments):
        segment_id = segment.get("id") if isinstance(segment, dict) else None
        if type(segment_id) is not int or not 0 < segment_id < END:
            raise ValueError(f"segments_info[{number}] has no id from 1 to {END - 1}")
        if segment_id in found:
            raise ValueError(f"segment {segment_id} appears twice")
        category = segment.get("category_id")
        if type(category) is not int or category not in labels:
            what = f"category_id {reprlib.repr(category)} is not one of the categories"
            raise ValueError(f"segment {segment_id}: {what}")
        found[segment_id] = segment_id, labels[category], segment
    return list(found.values())


def _box(segment_id: int, segment: dict[str, Any]) -> list[float]:
    try:
        return box_of(segment)
    except ValueError as error:
        raise ValueError(f"segment {segment_id}: {error}") from None
