"""Read a COCO instances file (Lin et al., ECCV 2014): check every entry, and store all of them in a few arrays."""

import reprlib
from array import array
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.coco.categories import Advice, advice_to_set_classes, check_classes, count_others, distinct
from datasets.coco.json_file import (
    AnnotationFile,
    EntryErrors,
    ImageIndex,
    OtherCategory,
    entry_name,
    id_appears_twice,
    id_of,
    no_garbage_collection,
    no_usable_image,
    offsets_of,
    read_images,
)
from datasets.coco.masks import OutlineList, Outlines, area_of, check_outline, encode
from datasets.coco.values import box_of, flag_of, id_number, is_number
from datasets.files.folders import Names
from structures import Size

OFFICIAL_FILE = "instances_train2017.json"
LARGEST_KEY = "segmentation"  # nine tenths of the file; dropped during parsing if not needed, which saves the memory


Crowds = Literal["ignore", "objects"]


@dataclass(frozen=True)
class Annotations(ImageIndex):
    """The content of one file: its images, and N annotations, sorted by image and then in the order of the file.

    ids: [N] int64. labels: [N] int64, 0..K-1. boxes: [N, 4] float64, xywh in pixels. areas: [N] float64, in pixels.
    Boxes and areas are exactly as in the file. crowd: [N] bool. outlines: the N masks; None if they were not requested.
    """

    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    outlines: Outlines | None = None

    def rles(self, rows: np.ndarray) -> list[bytes] | None:
        """Compressed run lengths (the `counts`) of the annotations in `rows`; None if masks were not requested."""
        if self.outlines is None:
            return None
        images = np.searchsorted(self.offsets, rows, side="right") - 1
        return [self.outlines.rle(row, self.size(image)) for row, image in zip(rows, images, strict=True)]


@no_garbage_collection()
def read_annotations(
    path: Path,
    classes: Mapping[int, str],
    *,
    masks: bool,
    images: Path | None,
    entry_errors: EntryErrors,
    crowds: Crowds = "ignore",
    classes_name: str = "data.classes",
    advice: Advice = advice_to_set_classes,
) -> Annotations:
    """Read the annotations of a file. Unusable entries are reported to `entry_errors` and left out.

    classes: category id -> name; labels number the ids in ascending order. Annotations of other categories are left out
    and counted. masks: also read and check segmentations. images: the folder where every image must exist; None: do not
    check. crowds: "objects" takes crowds as objects. classes_name, advice: for the error if the categories do not fit:
    what it calls the classes, and what to do.
    Raises UserError naming the file, and also the image or annotation unless the whole file is unusable. An unusable
    image is left out with its annotations.
    """
    file = AnnotationFile(path, OFFICIAL_FILE, None if masks else LARGEST_KEY)
    categories = file.categories()
    others = check_classes(file, categories, classes, advice, classes_name)
    found, unusable_images = read_images(file.list_of("images"), images, entry_errors)
    if not found:
        raise no_usable_image(path, entry_errors)
    image_ids = sorted(found)
    reader = _AnnotationReader(
        labels={category: label for label, category in enumerate(sorted(classes)) if category in categories},
        others=others.keys(),
        images={image_id: found[image_id][0] for image_id in image_ids},
        unusable_images=unusable_images,
        masks=masks,
    )
    for number, record in enumerate(file.annotations()):
        try:
            reader.add(record)
        except ValueError as error:
            entry_errors.add(entry_name("annotation", record, number), str(error))
    annotations = reader.sort_by_image(
        image_ids,
        Names(found[image_id][1] for image_id in image_ids),
        count_others(file, others, reader.other_counts, classes),
    )
    return replace(annotations, crowd=annotations.crowd & (crowds == "ignore"))


@no_garbage_collection()
def read_classes(path: Path) -> dict[int, str]:
    """Category id -> name, from the file's `categories`. Raises UserError if they or the file are unusable.

    Of several categories with one name, those that are never annotated are left out.
    """
    file = AnnotationFile(path, OFFICIAL_FILE, LARGEST_KEY)
    return distinct(file, file.categories())


class _AnnotationReader:
    """Checks annotations one by one and collects them in arrays.

    labels: by category id. others: the ids of other categories, whose annotations are only counted, in `other_counts`.
    images: size by image id. unusable_images: ids of images whose annotations are left out.
    """

    def __init__(
        self,
        labels: dict[int, int],
        others: Collection[int],
        images: dict[int, Size],
        unusable_images: set[int],
        masks: bool,
    ) -> None:
        self.other_counts: Counter[int] = Counter()
        self._labels, self._others = labels, others
        self._sizes, self._unusable_images = list(images.values()), unusable_images
        self._image_rows = {image_id: row for row, image_id in enumerate(images)}
        self._seen: set[int] = set()
        self._integers = array("q")  # image row, id, label, crowd
        self._numbers = array("d")  # x, y, width, height, area
        self._outlines = OutlineList() if masks else None

    def add(self, record: Any) -> None:
        """Add one entry of the file. Raises ValueError if it is unusable."""
        annotation_id = id_of(record)
        if annotation_id in self._seen:
            raise id_appears_twice(record)
        image_id, category = id_number(record.get("image_id")), id_number(record.get("category_id"))
        row = None if image_id is None else self._image_rows.get(image_id)
        if row is None:
            if image_id in self._unusable_images:
                return
            raise ValueError(f"image_id {reprlib.repr(record.get('image_id'))} is not one of the images")
        if category is not None and category in self._others:
            self._seen.add(annotation_id)
            self.other_counts[category] += 1
            return
        if category is None or category not in self._labels:
            raise ValueError(f"category_id {reprlib.repr(record.get('category_id'))} is not one of the categories")
        box, crowd = box_of(record), flag_of(record, "iscrowd")
        outline = None if self._outlines is None else check_outline(record.get("segmentation"), self._sizes[row])
        area = record.get("area")
        if area is None and outline is None:
            area = box[2] * box[3]
        elif area is None:
            area = area_of(encode(record["segmentation"], self._sizes[row]), self._sizes[row])
        elif not is_number(area):
            raise ValueError(f"area {reprlib.repr(area)} is not a finite number")
        self._seen.add(annotation_id)
        self._integers.extend((row, annotation_id, self._labels[category], crowd))
        self._numbers.extend((*box, area))
        if self._outlines is not None and outline is not None:
            self._outlines.append(outline)

    def sort_by_image(self, image_ids: list[int], names: Names, others: tuple[OtherCategory, ...]) -> Annotations:
        """All annotations added so far, sorted by image."""
        integers = np.array(self._integers, np.int64).reshape(-1, 4)
        order = np.argsort(integers[:, 0], kind="stable")
        image_rows, ids, labels, crowd = np.ascontiguousarray(integers[order].T)
        numbers = np.array(self._numbers, np.float64).reshape(-1, 5)[order]
        return Annotations(
            image_ids=np.array(image_ids, np.int64),
            sizes=np.array(self._sizes, np.int64),
            names=names,
            offsets=offsets_of(np.bincount(image_rows, minlength=len(image_ids))),
            others=others,
            ids=ids,
            labels=labels,
            boxes=numbers[:, :4].copy(),
            areas=numbers[:, 4].copy(),
            crowd=crowd.astype(bool),
            outlines=None if self._outlines is None else self._outlines.in_order(order),
        )
