"""Read a COCO panoptic file (Kirillov et al., CVPR 2019): check every entry, and store all of them in a few arrays."""

import math
import reprlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.coco.annotations import Crowds
from datasets.coco.categories import Advice, advice_to_set_classes, check_classes, count_others, distinct
from datasets.coco.json_file import (
    ADVICE_CORRECT,
    AnnotationFile,
    EntryErrors,
    ImageIndex,
    OtherCategory,
    file_name_of,
    no_garbage_collection,
    no_usable_image,
    offsets_of,
    read_images,
)
from datasets.coco.values import box_of, flag_of, id_number
from datasets.files.folders import Files, Names
from datasets.panoptic.categories import Category
from datasets.panoptic.ids import END
from errors import UserError
from structures import IGNORE, Size

OFFICIAL_FILE = "panoptic_train2017.json"
NO_BOX = [math.nan] * 4


class Segment(NamedTuple):
    """An entry of `segments_info`."""

    id: int
    category_id: int
    label: int
    entry: dict[str, Any]


@dataclass(frozen=True)
class Segments(ImageIndex):
    """The content of one file: its images, and N segments, sorted by image and then in the order of the file.

    files: M names of PNGs, one per image, relative to their folder. ids: [N] int32, unique within an image. labels: [N]
    int16, 0..K-1; IGNORE for the categories in `others`. boxes: [N, 4] float32, xywh in pixels as in the file; NaN
    where it has none. crowd: [N] bool.
    """

    files: Names
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


@no_garbage_collection()
def read_segments(
    path: Path,
    classes: Mapping[int, Category],
    *,
    images: Path | None,
    pngs: Path,
    entry_errors: EntryErrors,
    crowds: Crowds = "ignore",
    advice: Advice = advice_to_set_classes,
) -> Segments:
    """Read a file's segments. Images with an unusable or missing entry are reported to `entry_errors` and left out.

    classes: by category id; labels number the ids in ascending order. images: the folder where every image must exist;
    None: do not check. pngs: the folder where every PNG must exist; the PNGs are not read. crowds: "objects" takes
    crowds as objects. advice: what to do if the categories do not fit.
    Raises UserError naming the file, and also the image unless the whole file is unusable.
    """
    file = AnnotationFile(path, OFFICIAL_FILE)
    categories = _categories(file)
    others = check_classes(file, categories, classes, advice)
    found, unusable = read_images(file.list_of("images"), images, entry_errors)
    labels = {category: label for label, category in enumerate(sorted(classes)) if category in categories}
    things = {category_id for category_id, category in categories.items() if category.isthing}
    reader = _SegmentReader(labels | dict.fromkeys(others, IGNORE), things, Files(pngs), crowds)
    for number, record in enumerate(file.annotations()):
        image_id = id_number(record.get("image_id")) if isinstance(record, dict) else None
        if image_id is None:
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
        raise no_usable_image(path, entry_errors)
    return reader.segments_of(usable, count_others(file, others, reader.other_counts, classes))


@no_garbage_collection()
def read_categories(path: Path) -> dict[int, Category]:
    """The file's `categories` by id. Raises UserError if they or the file are unusable.

    Of several categories with one name, those that are never annotated are left out.
    """
    file = AnnotationFile(path, OFFICIAL_FILE)
    return distinct(file, _categories(file))


def _categories(file: AnnotationFile) -> dict[int, Category]:
    categories = {}
    for category_id, record in file.category_records().items():
        isthing = record.get("isthing")
        if isthing not in (0, 1):
            what = f"isthing is {reprlib.repr(isthing)}, neither 0 nor 1" if "isthing" in record else "has no isthing"
            raise UserError(f"{file.path}: category {category_id}", what, ADVICE_CORRECT)
        categories[category_id] = Category(name=record["name"], isthing=bool(isthing))
    return categories


class _SegmentReader:
    """Checks the annotations of images one by one and collects their segments in arrays.

    labels: by category id. things: the category ids of things. files: the names of all PNGs. crowds: see
    `read_segments`. images: by image id, the first row of its segments, the row after its last, and the name of its
    PNG. other_counts: how many segments with the label IGNORE there are, by category id.
    """

    def __init__(self, labels: dict[int, int], things: set[int], files: Files, crowds: Crowds) -> None:
        self.images: dict[int, tuple[int, int, str]] = {}
        self.other_counts: Counter[int] = Counter()
        self._labels, self._things, self._files, self._crowds = labels, things, files, crowds
        self._integers = array("i")  # id, label, crowd
        self._boxes = array("f")

    def add(self, image_id: int, record: dict[str, Any]) -> None:
        """Add the annotation of one image. Raises ValueError if it is unusable."""
        if image_id in self.images:
            raise ValueError("appears twice")
        name = file_name_of(record, self._files, "PNGs")
        segments = labelled_segments(record, self._labels)
        # Check all segments before the first is stored.
        rows = []
        for segment_id, category, label, entry in segments:
            try:
                rows.append((segment_id, label, self._crowd(category, entry), _box(entry)))
            except ValueError as error:
                raise ValueError(f"segment {segment_id}: {error}") from None
        start = len(self._integers) // 3
        for segment_id, label, crowd, box in rows:
            self._integers.extend((segment_id, label, crowd))
            self._boxes.extend(box)
        self.other_counts.update(category for _, category, label, _ in segments if label == IGNORE)
        self.images[image_id] = start, start + len(rows), name

    def _crowd(self, category: int, entry: dict[str, Any]) -> int:
        crowd = flag_of(entry, "iscrowd")
        if self._crowds == "objects":
            return 0
        if crowd and category not in self._things:
            raise ValueError(f"iscrowd is 1, but category {category} is stuff")
        return crowd

    def segments_of(self, images: dict[int, tuple[Size, str]], others: tuple[OtherCategory, ...]) -> Segments:
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
            others=others,
            files=Names(files),
            ids=ids.copy(),
            labels=labels.astype(np.int16),
            boxes=np.array(self._boxes, np.float32).reshape(-1, 4)[rows],
            crowd=crowd.astype(bool),
        )


def labelled_segments(record: dict[str, Any], labels: Mapping[int, int]) -> list[Segment]:
    """The `segments_info` of a record, an annotation or a result.

    labels: by category id. Raises ValueError if the record is unusable.
    """
    segments = record.get("segments_info")
    if not isinstance(segments, list):
        raise ValueError("has no list segments_info")
    found: dict[int, Segment] = {}
    for number, segment in enumerate(segments):
        segment_id = id_number(segment.get("id")) if isinstance(segment, dict) else None
        if segment_id is None or not 0 < segment_id < END:
            raise ValueError(f"segments_info[{number}] has no id from 1 to {END - 1}")
        if segment_id in found:
            raise ValueError(f"segment {segment_id} appears twice")
        category = id_number(segment.get("category_id"))
        if category is None or category not in labels:
            what = f"category_id {reprlib.repr(segment.get('category_id'))} is not one of the categories"
            raise ValueError(f"segment {segment_id}: {what}")
        found[segment_id] = Segment(segment_id, category, labels[category], segment)
    return list(found.values())


def _box(segment: dict[str, Any]) -> list[float]:
    return NO_BOX if segment.get("bbox") is None else box_of(segment)
