"""Put files into the new folder: hard links, else symbolic links, else copies."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from errors import UserError
from tools.import_data.record import Item

COPY, LINK, SYMLINK = "copied", "hard links", "symbolic links"


class Placer:
    """Puts files below `out`; `counts` says how. copy: always copy."""

    def __init__(self, out: Path, copy: bool) -> None:
        self.out, self.copy = out, copy
        self.counts: Counter[str] = Counter()

    def place(self, source: Path, name: str) -> None:
        """Put a file there. Raises UserError if that is impossible."""
        target = self._target(name)
        source = source.resolve()
        ways: list[tuple[str, Callable[[Path, Path], object]]] = [(COPY, shutil.copyfile)]
        if not self.copy:
            ways = [(LINK, os.link), (SYMLINK, os.symlink), *ways]
        for number, (way, act) in enumerate(ways, start=1):
            try:
                act(source, target)
            except OSError as error:
                if number == len(ways) or isinstance(error, FileExistsError):
                    raise _cannot(target, error) from None
                continue
            self.counts[way] += 1
            return

    def write(self, name: str, content: bytes | str) -> None:
        """Write a new file. Raises UserError if that is impossible."""
        target = self._target(name)
        try:
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise _cannot(target, error) from None

    def image(self, item: Item, name: str) -> None:
        """Put the image of an item there."""
        if item.content is None:
            self.place(item.image, name)
        else:
            self.write(name, item.content)

    def _target(self, name: str) -> Path:
        target = self.out / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot(target.parent, error) from None
        return target

    def describe(self) -> str:
        """How the files were put there, in a line."""
        return ", ".join(f"{count} {way}" for way, count in self.counts.items()) or "none: they are read where they lie"


def _cannot(target: Path, error: OSError) -> UserError:
    return UserError(target, f"cannot be written ({error.strerror})", "make room, or choose another --out")


def new_names(items: Sequence[Item]) -> list[str]:
    """A name for each image, with different stems: its own, or its path with `_` for `/` where others have its own."""
    stems = Counter(PurePosixPath(item.name).stem.casefold() for item in items)
    names: list[str] = []
    used: set[str] = set()
    for item in items:
        path = PurePosixPath(item.name)
        name = path.name if stems[path.stem.casefold()] == 1 else "_".join(path.parts)
        stem, suffix = os.path.splitext(name)
        number = 1
        while stem.casefold() in used:
            number += 1
            stem = f"{os.path.splitext(name)[0]}_{number}"
        used.add(stem.casefold())
        names.append(stem + suffix.lower())
    return names
