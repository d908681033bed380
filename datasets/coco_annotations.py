"""Read a COCO instances file (Lin et al., ECCV 2014): check every entry, keep them all in a few arrays."""

import gc
import json
import math
import os
import reprlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from datasets.coco_masks import area_of, encode
from datasets.coco_values import box_of, is_id, is_number, is_text
from datasets.folders import Names
from datasets.images import MAX_PIXELS
from errors import UserError
from structures import Size

OnError = Literal["stop", "skip"]
CORRECT = "correct the file"
ADVICE = f"{CORRECT}, or leave out what is unusable with data.on_error=skip"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Parsing makes millions of objects and no garbage; searching for it would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class Annotations:
    """One file: M images by ascending id, N annotations by image and, within one, in the order of the file.

    image_ids: [M] int64. sizes: [M, 2] int64, (height, width). names: M file names, relative to the images' folder.
    offsets: [M + 1] int64, where each image's annotations begin. ids: [N] int64. labels: [N] int64, 0..K-1.
    boxes: [N, 4] float64, xywh in pixels, and areas: [N] float64, in pixels, both as they stand in the file. crowd: [N]
    bool. runs: [T] uint8, all masks as COCO's compressed run lengths, and run_offsets: [N + 1] int64, where each
    begins; None if masks were not asked for. No entry is a Python object, so forked workers share the memory.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: Names
    offsets: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    runs: np.ndarray | None = None
    run_offsets: np.ndarray | None = None

    def size(self, image: int) -> Size:
        """(height, width) of the image in row `image`."""
        height, width = self.sizes[image].tolist()
        return height, width

    def rows(self, image: int) -> np.ndarray:
        """The annotations of the image in row `image`: indices into the arrays of length N."""
        return np.arange(self.offsets[image], self.offsets[image + 1])

    def rles(self, rows: np.ndarray) -> list[bytes] | None:
        """Compressed run lengths (the `counts`) of some annotations, None if masks were not asked for."""
        if self.runs is None or self.run_offsets is None:
            return None
        return [self.runs[self.run_offsets[row] : self.run_offsets[row + 1]].tobytes() for row in rows]


@_no_garbage_collection()
def read_annotations(
    path: Path, classes: Mapping[int, str], *, masks: bool, images: Path | None, on_error: OnError
) -> tuple[Annotations, list[str]]:
    """The file's annotations, and a line for every entry that was left out as unusable (on_error "skip").

    classes: category id -> name; labels are the ranks of the ids. masks: read and check segmentations too.
    images: the folder where every image must exist, None to check no image.
    Raises UserError naming the file, and the image or annotation unless the whole file is concerned. An image that is
    left out takes its annotations with it.
    """
    content = _read_json(path, keep_segmentation=masks)
    categories = _categories(path, content)
    _check_classes(path, categories, classes)
    faults = _Faults(path, on_error)
    found, lost = _read_images(_list_of(path, content, "images"), images, faults)
    if not found:
        raise UserError(path, "lists no usable image", "name another file")
    image_ids = sorted(found)
    reader = _AnnotationReader(
        labels={number: label for label, number in enumerate(sorted(classes)) if number in categories},
        images={number: found[number][0] for number in image_ids},
        lost_images=lost,
        masks=masks,
    )
    for number, record in enumerate(_list_of(path, content, "annotations")):
        try:
            reader.add(record)
        except ValueError as problem:
            faults.add(_entry("annotation", record, number), str(problem))
    return reader.sorted(image_ids, Names(found[number][1] for number in image_ids)), faults.lines


@_no_garbage_collection()
def read_classes(path: Path) -> dict[int, str]:
    """Category id -> name, of the file's `categories`. Raises UserError if they or the file are unusable."""
    return _categories(path, _read_json(path, keep_segmentation=False))


# --- the file as a whole ---------------------------------------------------------------------------------------------


def _read_json(path: Path, keep_segmentation: bool) -> dict[str, Any]:
    def without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)  # nine tenths of the file: dropped at once, they need no memory
        return record

    try:
        content = json.loads(path.read_bytes(), object_hook=None if keep_segmentation else without_segmentation)
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path and the permissions") from None
    except json.JSONDecodeError as error:
        what = f"is no valid JSON at character {error.pos} of {len(error.doc)} ({error.msg})"
        raise UserError(path, what, "replace the file; it may be incomplete") from None
    except (ValueError, RecursionError) as error:  # undecodable text, numbers of thousands of digits, deep nesting
        raise UserError(path, f"is no valid JSON ({error})", "replace the file") from None
    if not isinstance(content, dict):
        raise UserError(path, "is not a JSON object", "give a file in the form of COCO's instances_train2017.json")
    return content


def _list_of(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list):
        what = f"{key} is not a list" if key in content else f"has no {key}"
        raise UserError(path, what, "give a file in the form of COCO's instances_train2017.json")
    values: list[Any] = content[key]
    return values


def _categories(path: Path, content: dict[str, Any]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for number, record in enumerate(_list_of(path, content, "categories")):
        key, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
        if not is_id(key) or not is_text(name):
            raise UserError(f"{path}: categories[{number}]", "lacks an integer id or a name", CORRECT)
        if key in categories:
            raise UserError(f"{path}: category {key}", "appears twice", CORRECT)
        categories[key] = name
    return categories


def _check_classes(path: Path, categories: Mapping[int, str], classes: Mapping[int, str]) -> None:
    """Raises UserError unless the file's categories are among `classes`, under the same names."""
    wrong = [number for number in categories if classes.get(number) != categories[number]]
    if not wrong:
        return
    first = wrong[0]
    what = f"category {first} is called {categories[first]} here but "
    what += f"{classes[first]} in data.classes" if first in classes else "is none of data.classes"
    what += f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
    theirs = yaml.safe_dump(dict(categories), default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    theirs = f"'data.classes={theirs}'" if len(theirs) < 500 else "data.classes to the file's ids and names"
    raise UserError(path, what, f"set {theirs}, or name another file")


class _Faults:
    """What becomes of an unusable entry: an error at once, or a line in a list."""

    def __init__(self, path: Path, on_error: OnError) -> None:
        self.lines: list[str] = []
        self._path = path
        self._stop = on_error == "stop"

    def add(self, entry: str, what: str) -> None:
        if self._stop:
            raise UserError(f"{self._path}: {entry}", what, ADVICE)
        self.lines.append(f"{self._path}: {entry}: {what}")


def _entry(kind: str, record: Any, number: int) -> str:
    """How errors name an entry: by its id, or by its place in the list."""
    key = record.get("id") if isinstance(record, dict) else None
    return f"{kind} {key}" if is_id(key) else f"{kind}s[{number}]"


# --- images ----------------------------------------------------------------------------------------------------------


_Images = dict[int, tuple[Size, str]]


def _read_images(records: list[Any], folder: Path | None, faults: _Faults) -> tuple[_Images, set[int]]:
    """Size and file name by image id, and the ids of unusable images."""
    found: _Images = {}
    lost: set[int] = set()
    files = None if folder is None else _Files(folder)
    for number, record in enumerate(records):
        try:
            key = _id_of(record)
            if key in found:
                raise ValueError("its id appears twice")
            lost.add(key)
            found[key] = _size_of(record), _name_of(record, files)
            lost.remove(key)
        except ValueError as problem:
            faults.add(_entry("image", record, number), str(problem))
    return found, lost


def _id_of(record: Any) -> int:
    key = record.get("id") if isinstance(record, dict) else None
    if not is_id(key):
        raise ValueError("has no integer id")
    return key


def _size_of(record: dict[str, Any]) -> Size:
    height, width = record.get("height"), record.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(f"width {reprlib.repr(width)} and height {reprlib.repr(height)} are not positive integers")
    if height * width > MAX_PIXELS:
        raise ValueError(f"width {width} and height {height} are more than {MAX_PIXELS} pixels")
    return height, width


class _Files:
    """The files below a folder, listed once per subfolder that is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        parent, _, file = name.rpartition("/")
        if parent not in self._listed:
            try:
                self._listed[parent] = frozenset(os.listdir(self.folder / parent))
            except OSError:
                self._listed[parent] = frozenset()
        return file in self._listed[parent]


def _name_of(record: dict[str, Any], files: _Files | None) -> str:
    name = record.get("file_name")
    if not is_text(name):
        raise ValueError(f"file_name {reprlib.repr(name)} is no file name")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"file_name {name} leads out of the images' folder")
    if files is not None and name not in files:
        raise ValueError(f"there is no file {name} in {files.folder}")
    return name


# --- annotations -----------------------------------------------------------------------------------------------------


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
        key = _id_of(record)
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
            run_offsets = _offsets(np.array([len(self._rles[row]) for row in order], np.int64))
        return Annotations(
            image_ids=np.array(image_ids, np.int64),
            sizes=np.array(self._sizes, np.int64),
            names=names,
            offsets=_offsets(np.bincount(image_rows, minlength=len(image_ids))),
            ids=ids,
            labels=labels,
            boxes=numbers[:, :4].copy(),
            areas=numbers[:, 4].copy(),
            crowd=crowd.astype(bool),
            runs=runs,
            run_offsets=run_offsets,
        )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
