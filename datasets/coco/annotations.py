"""Read a COCO instances file (Lin et al., ECCV 2014): check every entry, keep them all in a few arrays."""

import reprlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.coco.json_file import (
    AnnotationFile,
    Faults,
    Listing,
    check_classes,
    entry_name,
    id_of,
    no_garbage_collection,
    offsets_of,
    read_images,
    set_classes,
)
from datasets.coco.masks import area_of, encode
from datasets.coco.values import box_of, is_id, is_number
from datasets.files.folders import Names
from errors import UserError
from structures import Size

FORM = "instances_train2017.json"
BULK = "segmentation"  # nine tenths of the file: dropped at once where they are not needed, they cost no memory


@dataclass(frozen=True)
class Annotations(Listing):
    """One file: its images, and N annotations by image and, within one, in the order of the file.

    ids: [N] int64. labels: [N] int64, 0..K-1. boxes: [N, 4] float64, xywh in pixels, and areas: [N] float64, in pixels,
    both as they stand in the file. crowd: [N] bool. runs: [T] uint8, all masks as COCO's compressed run lengths, and
    run_offsets: [N + 1] int64, where each begins; None if masks were not asked for.
    """

    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    runs: np.ndarray | None = None
    run_offsets: np.ndarray | None = None

    def rles(self, rows: np.ndarray) -> list[bytes] | None:
        """Compressed run lengths (the `counts`) of some annotations, None if masks were not asked for."""
        if self.runs is None or self.run_offsets is None:
            return None
        return [self.runs[self.run_offsets[row] : self.run_offsets[row + 1]].tobytes() for row in rows]


@no_garbage_collection()
def read_annotations(
    path: Path,
    classes: Mapping[int, str],
    *,
    masks: bool,
    images: Path | None,
    faults: Faults,
    among: str = "data.classes",
    advice: str | None = None,
) -> Annotations:
    """The file's annotations, without the entries that go to `faults` as unusable.

    classes: category id -> name; labels are the ranks of the ids. masks: read and check segmentations too.
    images: the folder where every image must exist, None to check no image. among, advice: what an error calls the
    classes, and tells to do, where a category is none of them; None: to set data.classes.
    Raises UserError naming the file, and the image or annotation unless the whole file is concerned. An image that is
    left out takes its annotations with it.
    """
    file = AnnotationFile(path, FORM, None if masks else BULK)
    categories = file.categories()
    check_classes(path, categories, classes, advice or set_classes(categories), among)
    found, lost = read_images(file.list_of("images"), images, faults)
    if not found:
        raise UserError(path, "lists no usable image", "name another file")
    image_ids = sorted(found)
    reader = _AnnotationReader(
        labels={number: label for label, number in enumerate(sorted(classes)) if number in categories},
        images={number: found[number][0] for number in image_ids},
        lost_images=lost,
        masks=masks,
    )
    for number, record in enumerate(file.list_of("annotations")):
        try:
            reader.add(record)
        except ValueError as problem:
            faults.add(entry_name("annotation", record, number), str(problem))
    return reader.sorted(image_ids, Names(found[number][1] for number in image_ids))


@no_garbage_collection()
def read_classes(path: Path) -> dict[int, str]:
    """Category id -> name, of the file's `categories`. Raises UserError if they or the file are unusable."""
    return AnnotationFile(path, FORM, BULK).categories()


class _AnnotationReader:
    """Checks annotations one by one and gathers them in arrays."""

    def __init__(self, labels: dict[int, int], images: dict[int, Size], lost_images: set[int], masks: bool) -> None:
        self._labels, self._sizes, self._lost = labels, list(images.values()), lost_images
        self._image_rows = {image_id: row for row, image_id in enumerate(images)}
        self._seen: set[int] = set()
        self._integers = array("q")  # image row, id, label, crowd
        self._numbers = array("d")  # x, y, width, height, area
        self._rles: list[bytes] | None = [] if masks else None

    def add(self, record: Any) -> None:
        """Take one entry of the file. Raises ValueError saying why it is unusable."""
        key = id_of(record)
        if key in self._seen:
            raise ValueError("its id appears twice")
        image_id, category = record.get("image_id"), record.get("category_id")
        if not is_id(image_id) or image_id not in self._image_rows:
            if is_id(image_id) and image_id in self._lost:
                return
            raise ValueError(f"image_id {reprlib.repr(image_id)} is none of the images")
        if not is_id(category) or category not in self._labels:
            raise ValueError(f"category_id {reprlib.repr(category)} is none of the categories")
        row, crowd, box = self._image_rows[image_id], record.get("iscrowd", 0), box_of(record)
        if crowd not in (0, 1):
            raise ValueError(f"iscrowd is {reprlib.repr(crowd)}, neither 0 nor 1")
        rle = None if self._rles is None else encode(record.get("segmentation"), self._sizes[row])
        area = record.get("area")
        if area is None:
            area = box[2] * box[3] if rle is None else area_of(rle, self._sizes[row])
        elif not is_number(area):
            raise ValueError(f"area {reprlib.repr(area)} is no finite number")
        self._seen.add(key)
        self._integers.extend((row, key, self._labels[category], int(crowd)))
        self._numbers.extend((*box, area))
        if self._rles is not None and rle is not None:
            self._rles.append(rle)

    def sorted(self, image_ids: list[int], names: Names) -> Annotations:
        """All of them, by image."""
        integers = np.array(self._integers, np.int64).reshape(-1, 4)
        order = np.argsort(integers[:, 0], kind="stable")
        image_rows, ids, labels, crowd = np.ascontiguousarray(integers[order].T)
        numbers = np.array(self._numbers, np.float64).reshape(-1, 5)[order]
        runs = run_offsets = None
        if self._rles is not None:
            runs = np.frombuffer(b"".join(self._rles[row] for row in order), np.uint8)
            run_offsets = offsets_of(np.array([len(self._rles[row]) for row in order], np.int64))
        return Annotations(
            image_ids=np.array(image_ids, np.int64),
            sizes=np.array(self._sizes, np.int64),
            names=names,
            offsets=offsets_of(np.bincount(image_rows, minlength=len(image_ids))),
            ids=ids,
            labels=labels,
            boxes=numbers[:, :4].copy(),
            areas=numbers[:, 4].copy(),
            crowd=crowd.astype(bool),
            runs=runs,
            run_offsets=run_offsets,
        )
