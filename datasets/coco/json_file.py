"""What COCO's annotation files have in common: how they are read, categories, images, and unusable entries."""

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
from datasets.files.paths import below, problem_with
from errors import UserError, one_line
from structures import Size

OnError = Literal["stop", "skip"]
CORRECT = "correct the file"
ADVICE = f"{CORRECT}, or leave out what is unusable with data.on_error=skip"

Category = TypeVar("Category")


@dataclass(frozen=True)
class Listing:
    """M images by ascending id, and which of N annotations belong to each.

    image_ids: [M] int64. sizes: [M, 2] int64, (height, width). names: M file names, relative to the images' folder.
    offsets: [M + 1] int64, where each image's annotations begin. No entry is a Python object, so forked workers share
    the memory.
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
    """Where each of several pieces begins, and the last one ends: [len + 1] int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Parsing makes millions of objects and no garbage; searching for it would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --- the file as a whole ---------------------------------------------------------------------------------------------


class AnnotationFile:
    """A parsed JSON object. form: the official file that it should resemble. without: a key that no object keeps.

    Raises UserError, from every method too, where the file is unusable as a whole.
    """

    def __init__(self, path: Path, form: str, without: str | None = None) -> None:
        def simplified(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            record = unique_keys(pairs)
            if without is not None:
                record.pop(without, None)
            return record

        self.path = path
        self._advice = f"give a file in the form of COCO's {form}"
        try:
            self._content = json.loads(path.read_bytes(), object_pairs_hook=simplified)
        except OSError as error:
            raise UserError(path, f"cannot be read ({error.strerror})", "check the path and the permissions") from None
        except json.JSONDecodeError as error:
            what = f"is no valid JSON at character {error.pos} of {len(error.doc)} ({error.msg})"
            raise UserError(path, what, "replace the file; it may be incomplete") from None
        except (ValueError, RecursionError) as error:  # undecodable text, numbers of thousands of digits, deep nesting
            raise UserError(path, f"is no valid JSON ({error})", "replace the file") from None
        if not isinstance(self._content, dict):
            raise UserError(path, "is not a JSON object", self._advice)

    def list_of(self, key: str) -> list[Any]:
        """The list that the file has under `key`."""
        values = self._content.get(key)
        if not isinstance(values, list):
            what = f"{key} is not a list" if key in self._content else f"has no {key}"
            raise UserError(self.path, what, self._advice)
        return values

    def categories(self) -> dict[int, str]:
        """Category id -> name."""
        categories: dict[int, str] = {}
        for number, record in enumerate(self.list_of("categories")):
            key, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            if not is_id(key) or not is_text(name):
                raise UserError(f"{self.path}: categories[{number}]", "lacks an integer id or a name", CORRECT)
            if key in categories:
                raise UserError(f"{self.path}: category {key}", "appears twice", CORRECT)
            categories[key] = name
        return categories


def check_classes(
    path: Path,
    categories: Mapping[int, Category],
    classes: Mapping[int, Category],
    advice: str,
    among: str = "data.classes",
) -> None:
    """Raises UserError, with an advice, unless the file's categories are among `classes`, and the same there."""
    wrong = [number for number in categories if classes.get(number) != categories[number]]
    if wrong:
        first = wrong[0]
        what = f"category {first} is called {categories[first]} here but "
        what += f"{classes[first]} in {among}" if first in classes else f"is none of {among}"
        what += f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise UserError(path, what, advice)


def set_classes(values: Mapping[int, Any]) -> str:
    """The advice to make data.classes these values."""
    text = yaml.safe_dump(dict(values), default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    classes = f"'data.classes={text}'" if len(text) < 500 else "data.classes to the file's ids and names"
    return f"set {classes}, or name another file"


def file_with_classes(values: Any, official: str) -> Path | None:
    """Of a raw data configuration, the file to read the classes from: its train_annotations, if that is the user's own.

    None if the classes are given, or train_annotations is the `official` file. Raises UserError if there is no file.
    """
    if not isinstance(values, dict) or values.get("classes") is not None:
        return None
    root, file = values.get("root"), values.get("train_annotations", official)
    if not isinstance(root, str | Path) or not isinstance(file, str) or file == official:
        return None
    path = below(Path(root), file)
    if problem := problem_with(path, "file"):
        what = f"{problem}; the classes would be read from it"
        raise UserError(path, what, "correct data.train_annotations (or data.root), or list data.classes")
    return path


class Faults:
    """What becomes of an unusable entry of a file: an error at once, or a line in a list.

    advice: what the error tells to do.
    """

    def __init__(self, path: Path, on_error: OnError, advice: str = ADVICE) -> None:
        self.lines: list[str] = []
        self._path = path
        self._stop = on_error == "stop"
        self._advice = advice

    def add(self, entry: str, what: str) -> None:
        """Take down what is wrong with an entry. Raises UserError instead if that is wanted."""
        if self._stop:
            raise UserError(f"{self._path}: {entry}", what, self._advice)
        self.lines.append(one_line(f"{self._path}: {entry}: {what}"))


def entry_name(kind: str, record: Any, number: int) -> str:
    """How errors name an entry: by its id, or by its place in the list."""
    key = record.get("id") if isinstance(record, dict) else None
    return f"{kind} {key}" if is_id(key) else f"{kind}s[{number}]"


def id_of(record: Any) -> int:
    """The id of an entry. Raises ValueError if it has none."""
    key = record.get("id") if isinstance(record, dict) else None
    if not is_id(key):
        raise ValueError("has no integer id")
    return key


# --- images ----------------------------------------------------------------------------------------------------------


Images = dict[int, tuple[Size, str]]


def read_images(records: list[Any], folder: Path | None, faults: Faults) -> tuple[Images, set[int]]:
    """Size and file name by image id, and the ids of unusable images.

    folder: where every image must exist, None to check no image.
    """
    found: Images = {}
    lost: set[int] = set()
    files = None if folder is None else Files(folder)
    for number, record in enumerate(records):
        try:
            key = id_of(record)
            if key in found:
                raise ValueError("its id appears twice")
            lost.add(key)
            found[key] = _size_of(record), file_name_of(record, files, "images")
            lost.remove(key)
        except ValueError as problem:
            faults.add(entry_name("image", record, number), str(problem))
    return found, lost


def _size_of(record: dict[str, Any]) -> Size:
    height, width = record.get("height"), record.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(f"width {reprlib.repr(width)} and height {reprlib.repr(height)} are not positive integers")
    if height * width > MAX_PIXELS:
        raise ValueError(f"width {width} and height {height} are more than {MAX_PIXELS} pixels")
    return height, width


class Files:
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


def file_name_of(record: dict[str, Any], files: Files | None, kind: str) -> str:
    """The `file_name` of an entry, below the folder of the `kind`. Raises ValueError unless it is one of `files`."""
    name = record.get("file_name")
    if not is_text(name):
        raise ValueError(f"file_name {reprlib.repr(name)} is no file name")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"file_name {name} leads out of the {kind}' folder")
    if files is not None and name not in files:
        raise ValueError(f"there is no file {name} in {files.folder}")
    return name
