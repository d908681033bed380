"""What COCO's annotation files have in common: parse them, read categories and images, report unusable entries."""

import gc
import json
import math
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml

from datasets.coco.values import is_id, is_text, unique_keys
from datasets.files.folders import Names
from datasets.files.images import MAX_PIXELS
from datasets.files.paths import problem_with, resolve_path
from errors import UserError, one_line
from structures import Size

OnError = Literal["stop", "skip"]
ADVICE_CORRECT = "correct the file"
ADVICE_CORRECT_OR_SKIP = f"{ADVICE_CORRECT}, or leave out what is unusable with data.on_error=skip"

Category = TypeVar("Category")


@dataclass(frozen=True)
class ImageIndex:
    """M images by ascending id, and which of N annotations belong to each.

    image_ids: [M] int64. sizes: [M, 2] int64, (height, width). names: M file names, relative to the images' folder.
    offsets: [M + 1] int64; the annotations of image row i are offsets[i] to offsets[i + 1]. All fields are arrays, not
    lists of Python objects, so forked workers share the memory.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: Names
    offsets: np.ndarray

    def size(self, image: int) -> Size:
        """(height, width) of the image in row `image`."""
        height, width = self.sizes[image].tolist()
        return height, width

    def rows(self, image: int) -> np.ndarray:
        """The annotations of the image in row `image`: indices into the arrays of length N."""
        return np.arange(self.offsets[image], self.offsets[image + 1])


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of several consecutive parts begins, and where the last one ends: [len + 1] int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Parsing creates millions of objects but no garbage; searching for garbage would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --- the file as a whole ---------------------------------------------------------------------------------------------


class AnnotationFile:
    """A parsed JSON file.

    form: name of the official file with the same structure, for error messages. drop: a key to drop from all objects.

    The constructor and all methods raise UserError if the file as a whole is unusable.
    """

    def __init__(self, path: Path, form: str, drop: str | None = None) -> None:
        def make_record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            record = unique_keys(pairs)
            if drop is not None:
                record.pop(drop, None)
            return record

        self.path = path
        self._advice = f"give a file in the form of COCO's {form}"
        try:
            self._content = json.loads(path.read_bytes(), object_pairs_hook=make_record)
        except OSError as error:
            raise UserError(path, f"cannot be read ({error.strerror})", "check the path and the permissions") from None
        except json.JSONDecodeError as error:
            what = f"is not valid JSON at character {error.pos} of {len(error.doc)} ({error.msg})"
            raise UserError(path, what, "replace the file; it may be incomplete") from None
        except (ValueError, RecursionError) as error:  # undecodable text, numbers of thousands of digits, deep nesting
            raise UserError(path, f"is not valid JSON ({error})", "replace the file") from None
        if not isinstance(self._content, dict):
            raise UserError(path, "is not a JSON object", self._advice)

    def list_of(self, key: str) -> list[Any]:
        """The list at `key` of the file."""
        values = self._content.get(key)
        if not isinstance(values, list):
            what = f"{key} is not a list" if key in self._content else f"has no {key}"
            raise UserError(self.path, what, self._advice)
        return values

    def categories(self) -> dict[int, str]:
        """Category id -> name."""
        categories: dict[int, str] = {}
        for number, record in enumerate(self.list_of("categories")):
            category_id, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            if not is_id(category_id) or not is_text(name):
                raise UserError(f"{self.path}: categories[{number}]", "lacks an integer id or a name", ADVICE_CORRECT)
            if category_id in categories:
                raise UserError(f"{self.path}: category {category_id}", "appears twice", ADVICE_CORRECT)
            categories[category_id] = name
        return categories


def check_classes(
    path: Path,
    categories: Mapping[int, Category],
    classes: Mapping[int, Category],
    advice: str,
    classes_name: str = "data.classes",
) -> None:
    """Raise UserError unless every category of the file is in `classes` with the same value.

    advice: what the error tells the user to do. classes_name: what the error calls `classes`.
    """
    wrong = [category_id for category_id in categories if classes.get(category_id) != categories[category_id]]
    if wrong:
        first = wrong[0]
        what = f"category {first} is called {categories[first]} here but "
        what += f"{classes[first]} in {classes_name}" if first in classes else f"is not in {classes_name}"
        what += f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise UserError(path, what, advice)


def advice_to_set_classes(values: Mapping[int, Any]) -> str:
    """The advice to set data.classes to these values."""
    text = yaml.safe_dump(dict(values), default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    classes = f"'data.classes={text}'" if len(text) < 500 else "data.classes to the file's ids and names"
    return f"set {classes}, or name another file"


def file_with_classes(values: Any, official: str) -> Path | None:
    """The file to read the classes from: train_annotations of a raw data configuration, if not the `official` file.

    None if it is the official file, or if the classes are set. Raises UserError if the file is missing.
    """
    if not isinstance(values, dict) or values.get("classes") is not None:
        return None
    root, file = values.get("root"), values.get("train_annotations", official)
    if not isinstance(root, str | Path) or not isinstance(file, str) or file == official:
        return None
    path = resolve_path(Path(root), file)
    if problem := problem_with(path, "file"):
        what = f"{problem}; the classes would be read from it"
        raise UserError(path, what, "correct data.train_annotations (or data.root), or list data.classes")
    return path


class EntryErrors:
    """Handles unusable entries of a file: with on_error "stop" it raises an error, with "skip" it adds to `lines`.

    advice: what the error tells the user to do.
    """

    def __init__(self, path: Path, on_error: OnError, advice: str = ADVICE_CORRECT_OR_SKIP) -> None:
        self.lines: list[str] = []
        self._path = path
        self._stop = on_error == "stop"
        self._advice = advice

    def add(self, entry: str, what: str) -> None:
        """Report an unusable entry. Raises UserError with on_error "stop"."""
        if self._stop:
            raise UserError(f"{self._path}: {entry}", what, self._advice)
        self.lines.append(one_line(f"{self._path}: {entry}: {what}"))


def entry_name(kind: str, record: Any, number: int) -> str:
    """The name of an entry in errors: its id, or else its index in the list."""
    entry_id = record.get("id") if isinstance(record, dict) else None
    return f"{kind} {entry_id}" if is_id(entry_id) else f"{kind}s[{number}]"


def id_of(record: Any) -> int:
    """The id of an entry. Raises ValueError if it has none."""
    entry_id = record.get("id") if isinstance(record, dict) else None
    if not is_id(entry_id):
        raise ValueError("has no integer id")
    return entry_id


# --- images ----------------------------------------------------------------------------------------------------------


Images = dict[int, tuple[Size, str]]


def read_images(records: list[Any], folder: Path | None, entry_errors: EntryErrors) -> tuple[Images, set[int]]:
    """Size and file name by image id, and the ids of unusable images.

    folder: where every image must exist; None: do not check.
    """
    found: Images = {}
    unusable: set[int] = set()
    files = None if folder is None else Files(folder)
    for number, record in enumerate(records):
        try:
            image_id = id_of(record)
            if image_id in found:
                raise ValueError("its id appears twice")
            unusable.add(image_id)
            found[image_id] = _size_of(record), file_name_of(record, files, "images")
            unusable.remove(image_id)
        except ValueError as error:
            entry_errors.add(entry_name("image", record, number), str(error))
    return found, unusable


def _size_of(record: dict[str, Any]) -> Size:
    height, width = record.get("height"), record.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(f"width {reprlib.repr(width)} and height {reprlib.repr(height)} are not positive integers")
    if height * width > MAX_PIXELS:
        raise ValueError(f"width {width} and height {height} are more than {MAX_PIXELS} pixels")
    return height, width


class Files:
    """The names of all files below a folder; each subfolder is listed when it is first asked for."""

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


def file_name_of(record: dict[str, Any], files: Files | None, kind: str) -> str:
    """The `file_name` of an entry. Raises ValueError if it is malformed or not in `files` (None: do not check).

    kind: what the files are, in the plural, for errors.
    """
    name = record.get("file_name")
    if not is_text(name):
        raise ValueError(f"file_name {reprlib.repr(name)} is not a file name")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"file_name {name} leads out of the {kind}' folder")
    if files is not None and name not in files:
        raise ValueError(f"there is no file {name} in {files.folder}")
    return name
