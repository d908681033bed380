"""List the files of a folder, and store long lists of names compactly."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from errors import UserError


def list_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, str]:
    """Stem -> name of every file in `folder` that has one of the (lower-case) suffixes, except hidden files.

    Raises UserError if the folder cannot be listed, or two files share a stem.
    """
    try:
        listed = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(folder, f"cannot be listed ({error.strerror})", "check the permissions") from None
    names: dict[str, str] = {}
    for name in listed:
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or suffix.lower() not in suffixes:
            continue
        if stem in names:
            raise UserError(folder / name, f"has the same stem as {names[stem]}", "rename or remove one of them")
        names[stem] = name
    return names


class Names:
    """A list of file names in one block of memory.

    Forked workers share this block. A Python list of 100,000 strings would be copied page by page into every worker,
    because reading a string changes its reference count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._bytes = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(bytes(self._bytes[index]))
