"""List the files of folders, find the files that lists name, and store many names compactly.

Names are compared in one Unicode form (NFC): a folder that was copied from macOS may hold `ü` as `u` and a diaeresis.
Files are opened by the name that their folder lists.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from datasets.files.unusable import Unusable
from errors import UserError


def list_files(
    folder: Path, suffixes: Collection[str], end: str = "", unusable: Unusable | None = None
) -> dict[str, str]:
    """Id -> path below `folder` of every file that has one of the (lower-case) suffixes and whose stem ends with `end`.

    The id is the path without suffix and `end`, in NFC, with `/` written as `_`. Subfolders are searched if the folder
    itself holds no such file. Hidden files and folders are not listed. Of several files with the same id, the
    others than the first are reported to `unusable` and left out; None: they are errors.
    Raises UserError if a folder cannot be listed.
    """
    unusable = Unusable("stop") if unusable is None else unusable

    def chosen(path: str) -> bool:
        return _is_chosen(path, suffixes, end)

    names = [name for name in _names_in(folder) if chosen(name)]
    paths: dict[str, str] = {}
    for path in names or filter(chosen, _walk(folder, suffixes)):
        file_id = os.path.splitext(normal(path))[0].removesuffix(normal(end)).replace("/", "_")
        if file_id in paths:
            other = paths[file_id]
            same = "stem" if os.path.dirname(path) == os.path.dirname(other) else f"name, {file_id},"
            error = UserError(folder / path, f"has the same {same} as {other}", "rename or remove one of them")
            unusable.add(error)
            continue
        paths[file_id] = path
    return paths


def other_files(folder: Path, suffixes: Collection[str], known: Iterable[str], end: str = "") -> list[Path]:
    """The files in `folder` and all its subfolders that `list_files` would choose but are not `known`, sorted.

    known: paths below `folder`, as listed.
    """
    if not os.path.isdir(folder):
        return []
    found = [path for path in _walk(folder, suffixes) if _is_chosen(path, suffixes, end)]
    return [folder / path for path in sorted(set(found) - set(known))]


def _is_chosen(path: str, suffixes: Collection[str], end: str) -> bool:
    stem, suffix = os.path.splitext(normal(path))
    return suffix.lower() in suffixes and stem.endswith(normal(end))


def _names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted, except hidden ones."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(folder, f"cannot be listed ({error.strerror})", "check the permissions") from None


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[str]:
    """The paths of all entries in the subfolders, except hidden ones and folders, unless they have a file's suffix."""
    waiting, seen = [""], set()  # links may lead in circles
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(folder / here)
        if real in seen:
            continue
        seen.add(real)
        for name in _names_in(folder / here):
            path = os.path.join(here, name)
            if os.path.isdir(folder / path) and os.path.splitext(name)[1].lower() not in suffixes:
                waiting.append(path)
            else:  # reading a folder with the suffix of a file is an error that names it
                yield path


def split_end(setting: str, suffixes: Collection[str]) -> tuple[str, Collection[str]]:
    """The end of the stems and the suffixes that a setting such as `_mask.png`, `_mask` or `.png` asks for."""
    if setting.lower() in suffixes:
        return "", {setting.lower()}
    stem, suffix = os.path.splitext(setting)
    return (stem, {suffix.lower()}) if suffix.lower() in suffixes else (setting, suffixes)


def normal(name: str) -> str:
    """The name in Unicode's form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


class Files:
    """The files below a folder, by the names that lists give them; each subfolder is listed when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, frozenset[str]] = {}
        self._similar: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path as listed: `path`, or else the one that differs only in Unicode form or the case of the suffix.

        None if there is none. Raises ValueError if there are several.
        """
        folder, _, last = path.rpartition("/")
        if last in self._names(folder):
            return path
        found = ""
        for name in path.split("/"):
            candidates = self._similar_names(found).get(_key(name), [])
            if name in candidates:
                candidates = [name]
            if len(candidates) > 1:
                raise ValueError(f"{path} may be {candidates[0]} or {candidates[1]}")
            if not candidates:
                return None
            found = os.path.join(found, candidates[0])
        return found

    def __contains__(self, path: str) -> bool:
        return self.find(path) is not None

    def _names(self, parent: str) -> frozenset[str]:
        if parent not in self._listed:
            try:
                self._listed[parent] = frozenset(os.listdir(self.folder / parent))
            except OSError:
                self._listed[parent] = frozenset()
        return self._listed[parent]

    def _similar_names(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._similar:
            similar: dict[str, list[str]] = {}
            for name in sorted(self._names(parent)):
                similar.setdefault(_key(name), []).append(name)
            self._similar[parent] = similar
        return self._similar[parent]


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(normal(name))
    return stem + suffix.lower()


def find_file(path: Path) -> Path:
    """`path`, or if there is no such file, the only one in its folder that differs as `Files.find` allows."""
    if os.path.lexists(path):
        return path
    try:
        name = Files(path.parent).find(path.name)
    except ValueError:
        name = None
    return path if name is None else path.parent / name


def evenly_spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count - 1, evenly spread, the first among them."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]


class Names:
    """A list of file names in one block of memory.

    Forked workers share this block. A Python list of 100,000 strings would be copied page by page into every worker,
    because reading a string changes its reference count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._bytes = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._bytes)

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(bytes(name)) for name in self._bytes)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(bytes(self._bytes[index]))
