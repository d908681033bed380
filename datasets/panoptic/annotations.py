"""Read a COCO panoptic file (Kirillov et al., CVPR 2019): check every entry, keep them all in a few arrays."""

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
    CORRECT,
    AnnotationFile,
    Faults,
    Files,
    Listing,
    check_classes,
    file_name_of,
    no_garbage_collection,
    offsets_of,
    read_images,
    set_classes,
)
from datasets.coco.values import box_of, is_id
from datasets.files.folders import Names
from datasets.panoptic.ids import END
from errors import UserError
from structures import Size

FORM = "panoptic_train2017.json"


class Category(Schema):
    """name: of the class. isthing: whether its objects are told apart; otherwise it is stuff."""

    name: Annotated[str, Field(min_length=1)]
    isthing: bool

    def __str__(self) -> str:
        return f"{self.name} ({'a thing' if self.isthing else 'stuff'})"


@dataclass(frozen=True)
class Segments(Listing):
    """One file: its images, each with a PNG, and N segments by image and, within one, in the order of the file.

    files: M names of PNGs, relative to their folder. ids: [N] int32, unique within an image. labels: [N] int16, 0..K-1.
    boxes: [N, 4] float32, xywh in pixels as they stand in the file. crowd: [N] bool.
    """

    files: Names
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


@no_garbage_collection()
def read_segments(
    path: Path, classes: Mapping[int, Category], *, images: Path | None, pngs: Path, faults: Faults
) -> Segments:
    """The file's segments, without the images that go to `faults` because an entry of theirs is unusable or missing.

    classes: by category id; labels are the ranks of the ids. images: the folder where every image must exist, None to
    check no image. pngs: the folder where every PNG must exist; none is opened.
    Raises UserError naming the file, and the image unless the whole file is concerned.
    """
    file = AnnotationFile(path, FORM)
    categories = _categories(file)
    plain = {number: category.model_dump() for number, category in categories.items()}
    check_classes(path, categories, classes, set_classes(plain))
    found, lost = read_images(file.list_of("images"), images, faults)
    labels = {number: label for label, number in enumerate(sorted(classes)) if number in categories}
    reader = _SegmentReader(labels, {number for number in categories if categories[number].isthing}, Files(pngs))
    for number, record in enumerate(file.list_of("annotations")):
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if not is_id(image_id):
            faults.add(f"annotations[{number}]", "has no integer image_id")
        elif image_id in lost:
            continue
        else:
            try:
                if image_id not in found:
                    raise ValueError("there is no such image")
                reader.add(image_id, record)
            except ValueError as problem:
                faults.add(f"annotation of image {image_id}", str(problem))
                lost.add(image_id)
    for image_id in sorted(found.keys() - reader.images.keys() - lost):
        faults.add(f"image {image_id}", "has no annotation")
    usable = {number: found[number] for number in sorted(reader.images.keys() - lost)}
    if not usable:
        raise UserError(path, "lists no usable image", "name another file")
    return reader.of(usable)


@no_garbage_collection()
def read_categories(path: Path) -> dict[int, Category]:
    """The file's `categories` by id. Raises UserError if they or the file are unusable."""
    return _categories(AnnotationFile(path, FORM))


def _categories(file: AnnotationFile) -> dict[int, Category]:
    names, categories = file.categories(), {}
    for record in file.list_of("categories"):
        isthing = record.get("isthing")
        if isthing not in (0, 1):
            what = f"isthing is {reprlib.repr(isthing)}, neither 0 nor 1" if "isthing" in record else "has no isthing"
            raise UserError(f"{file.path}: category {record['id']}", what, CORRECT)
        categories[record["id"]] = Category(name=names[record["id"]], isthing=bool(isthing))
    return categories


class _SegmentReader:
    """Checks the annotations of images one by one and gathers their segments in arrays.

    images: by id, where its segments are, and the name of its PNG.
    """

    def __init__(self, labels: dict[int, int], things: set[int], files: Files) -> None:
        self.images: dict[int, tuple[int, int, str]] = {}
        self._labels, self._things, self._files = labels, things, files
        self._integers = array("i")  # id, label, crowd
        self._boxes = array("f")

    def add(self, image_id: int, record: dict[str, Any]) -> None:
        """Take the annotation of one image. Raises ValueError saying why it is unusable."""
        if image_id in self.images:
            raise ValueError("appears twice")
        name = file_name_of(record, self._files, "PNGs")
        segments = labelled_segments(record, self._labels)
        values = [(key, label, self._crowd(key, segment), _box(key, segment)) for key, label, segment in segments]
        start = len(self._integers) // 3
        for key, label, crowd, box in values:
            self._integers.extend((key, label, crowd))
            self._boxes.extend(box)
        self.images[image_id] = start, start + len(values), name

    def _crowd(self, key: int, segment: dict[str, Any]) -> int:
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"of segment {key} iscrowd is {reprlib.repr(crowd)}, neither 0 nor 1")
        if crowd and segment["category_id"] not in self._things:
            raise ValueError(f"of segment {key} iscrowd is 1, but category {segment['category_id']} is stuff")
        return int(crowd)

    def of(self, images: dict[int, tuple[Size, str]]) -> Segments:
        """The segments of these images, which have been added."""
        starts, ends, files = zip(*(self.images[number] for number in images), strict=True)
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
    """Id, label and entry of each of the `segments_info` of a record, which may be annotation or result.

    labels: of every category id. Raises ValueError saying why the record is unusable.
    """
    segments = record.get("segments_info")
    if not isinstance(segments, list):
        raise ValueError("has no list segments_info")
    found: dict[int, tuple[int, int, dict[str, Any]]] = {}
    for number, segment in enumerate(segments):
        key = segment.get("id") if isinstance(segment, dict) else None
        if type(key) is not int or not 0 < key < END:
            raise ValueError(f"segments_info[{number}] has no id from 1 to {END - 1}")
        if key in found:
            raise ValueError(f"segment {key} appears twice")
        category = segment.get("category_id")
        if type(category) is not int or category not in labels:
            raise ValueError(f"of segment {key} category_id {reprlib.repr(category)} is none of the categories")
        found[key] = key, labels[category], segment
    return list(found.values())


def _box(key: int, segment: dict[str, Any]) -> list[float]:
    try:
        return box_of(segment)
    except ValueError as problem:
        raise ValueError(f"of segment {key} {problem}") from None
