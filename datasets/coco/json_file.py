"""What COCO's annotation files have in common: parse them, read categories and images, report unusable entries."""

import gc
import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datasets.coco.json_list import LongList
from datasets.coco.values import id_number, is_text, unique_keys, whole_number
from datasets.files.folders import Files, Names
from datasets.files.reading import MAX_PIXELS
from datasets.files.unusable import OnError, Unusable
from errors import UserError
from structures import Size

ADVICE_CORRECT = "correct the file"
ADVICE_CORRECT_OR_SKIP = f"{ADVICE_CORRECT}, or leave out what is unusable with data.on_error=skip"


@dataclass(frozen=True)
class OtherCategory:
    """A category of a file that is not among the classes, and how many annotations of it are left out."""

    category_id: int
    name: str
    count: int


@dataclass(frozen=True)
class ImageIndex:
    """M images by ascending id, and which of N annotations belong to each.

    image_ids: [M] int64. sizes: [M, 2] int64, (height, width). names: M file names, relative to the images' folder.
    offsets: [M + 1] int64; the annotations of image row i are offsets[i] to offsets[i + 1]. others: the categories of
    the file that are not among the classes; their annotations are left out. All other fields are arrays, not lists of
    Python objects, so forked workers share the memory.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: Names
    offsets: np.ndarray
    others: tuple[OtherCategory, ...]

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

    The constructor and all methods raise UserError if the file as a whole is unusable. `annotations`, which take most
    of the file, are parsed when they are asked for.
    """

    def __init__(self, path: Path, form: str, drop: str | None = None) -> None:
        def make_record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            record = unique_keys(pairs)
            if drop is not None:
                record.pop(drop, None)
            return record

        self.path = path
        self._advice = f"give a file in the form of COCO's {form}"
        self._make_record = make_record
        self._annotations: LongList | None = None
        try:
            self._annotations = LongList(path, "annotations", make_record)
            self._content = self._annotations.rest
        except (OSError, ValueError, RecursionError):
            self._content = self._parse()

    def _parse(self) -> dict[str, Any]:
        """The whole content at once, which takes a lot of memory, or the error that says where the file is wrong."""
        try:
            content = json.loads(self.path.read_bytes(), object_pairs_hook=self._make_record)
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
            raise UserError(self.path, what, "check the path and the permissions") from None
        except json.JSONDecodeError as error:
            what = f"is not valid JSON at character {error.pos} of {len(error.doc)} ({error.msg})"
            raise UserError(self.path, what, "replace the file; it may be incomplete") from None
        except (ValueError, RecursionError) as error:  # undecodable text, numbers of thousands of digits, deep nesting
            raise UserError(self.path, f"is not valid JSON ({error})", "replace the file") from None
        if not isinstance(content, dict):
            raise UserError(self.path, "is not a JSON object", self._advice)
        return content

    def annotations(self) -> Iterator[Any]:
        """The entries of `annotations`, parsed one after the other."""
        done = 0
        if self._annotations is not None:
            try:
                for entry in self._annotations:
                    yield entry
                    done += 1
                return
            except (OSError, ValueError, RecursionError):
                self._content = self._parse()
        yield from islice(self.list_of("annotations"), done, None)

    def list_of(self, key: str) -> list[Any]:
        """The list at `key` of the file."""
        values = self._content.get(key)
        if not isinstance(values, list):
            what = f"{key} is not a list" if key in self._content else f"has no {key}"
            raise UserError(self.path, what, self._advice)
        return values

    def categories(self) -> dict[int, str]:
        """Category id -> name."""
        return {category_id: record["name"] for category_id, record in self.category_records().items()}

    def category_records(self) -> dict[int, dict[str, Any]]:
        """The entries of `categories` by id. Each has a name."""
        records: dict[int, dict[str, Any]] = {}
        for number, record in enumerate(self.list_of("categories")):
            category_id, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            category_id = id_number(category_id)
            if category_id is None or not is_text(name):
                raise UserError(f"{self.path}: categories[{number}]", "lacks an integer id or a name", ADVICE_CORRECT)
            if category_id in records:
                raise UserError(f"{self.path}: category {category_id}", "appears twice", ADVICE_CORRECT)
            records[category_id] = record
        return records


class EntryErrors:
    """Handles unusable entries of a file: with on_error "stop" it raises an error, with "skip" it lists them.

    advice: what the error tells the user to do.
    """

    def __init__(self, path: Path, on_error: OnError, advice: str = ADVICE_CORRECT_OR_SKIP) -> None:
        self._path, self._advice = path, advice
        self._unusable = Unusable(on_error)

    def add(self, entry: str, what: str) -> None:
        """Report an unusable entry. Raises UserError with on_error "stop"."""
        self._unusable.add(UserError(f"{self._path}: {entry}", what, self._advice))

    @property
    def errors(self) -> list[UserError]:
        """What has been reported so far, with on_error "skip"."""
        return self._unusable.errors


def no_usable_image(path: Path, entry_errors: EntryErrors) -> UserError:
    """The error for a file without a single usable image."""
    if not entry_errors.errors:
        return UserError(path, "lists no usable image", "name another file")
    reason = entry_errors.errors[0].brief.removeprefix(f"{path}: ")
    what = f"lists no usable image (of {len(entry_errors.errors)} entries, the first: {reason})"
    return UserError(path, what, ADVICE_CORRECT)


def entry_name(kind: str, record: Any, number: int) -> str:
    """The name of an entry in errors: its id, or else its index in the list."""
    entry_id = id_number(record.get("id")) if isinstance(record, dict) else None
    return f"{kind}s[{number}]" if entry_id is None else f"{kind} {entry_id}"


def id_of(record: Any) -> int:
    """The id of an entry. Raises ValueError if it has none."""
    entry_id = id_number(record.get("id")) if isinstance(record, dict) else None
    if entry_id is None:
        raise ValueError("has no integer id")
    return entry_id


def id_appears_twice(record: dict[str, Any]) -> ValueError:
    """The error for an entry whose id another entry has, perhaps in other digits."""
    raw = record["id"]
    return ValueError(f"its id appears twice{f' ({raw!r} is that number)' if type(raw) is not int else ''}")


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
                raise id_appears_twice(record)
            unusable.add(image_id)
            found[image_id] = _size_of(record), file_name_of(record, files, "images")
            unusable.remove(image_id)
        except ValueError as error:
            entry_errors.add(entry_name("image", record, number), str(error))
    return found, unusable


def _size_of(record: dict[str, Any]) -> Size:
    height, width = whole_number(record.get("height")), whole_number(record.get("width"))
    if height is None or width is None or min(height, width) < 1:
        given = " and ".join(f"{key} {reprlib.repr(record.get(key))}" for key in ("width", "height"))
        raise ValueError(f"{given} are not positive integers")
    if height * width > MAX_PIXELS:
        raise ValueError(f"width {width} and height {height} are more than {MAX_PIXELS} pixels")
    return height, width


def file_name_of(record: dict[str, Any], files: Files | None, kind: str) -> str:
    """The `file_name` of an entry, as its folder lists it (see `Files.find`).

    files: None: do not look for it. kind: what the files are, in the plural, for errors. Raises ValueError if the name
    is malformed, or not that of one file.
    """
    name = record.get("file_name")
    if not is_text(name):
        raise ValueError(f"file_name {reprlib.repr(name)} is not a file name")
    if "\\" in name and (files is None or name not in files):
        name = name.replace("\\", "/")  # as Windows writes paths
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"file_name {name} leads out of the {kind}' folder")
    if files is None:
        return name
    found = files.find(name)
    if found is None:
        raise ValueError(f"there is no file {name} in {files.folder}")
    return found
