"""Find and read the files of a source: its images by the names that annotations give them, and its text files."""

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from datasets.files.folders import normal
from datasets.files.images import IMAGE_SUFFIXES
from datasets.files.reading import FORMATS
from errors import UserError
from structures import Size

ORIENTATION = 0x0112  # a tag of EXIF


class NotFoundError(Exception):
    """There is no image of that name, or there are several. The text is the reason."""


def walk(root: Path) -> Iterator[str]:
    """The paths below `root` of all files, sorted, except hidden ones."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def clean(name: str) -> str:
    """A path as annotations give it, with `/`, without a drive, a leading slash or `./`, in Unicode's form NFC."""
    name = re.sub(r"^(file://|[A-Za-z]:)", "", name.strip().replace("\\", "/"))
    parts = [part for part in normal(name).split("/") if part not in ("", ".")]
    return "/".join(parts)


class Images:
    """The images below a folder. without: absolute paths of files that are none."""

    def __init__(self, root: Path, without: Collection[str] = ()) -> None:
        self.root = root
        names = [name for name in walk(root) if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
        self.names = [name for name in names if not without or os.path.abspath(root / name) not in without]
        self._by_name: dict[str, list[str]] = {}
        self._folders: set[str] = set()
        for name in self.names:
            path = PurePosixPath(normal(name))
            for key in {_key(path.name), path.stem}:
                self._by_name.setdefault(key, []).append(name)
            self._folders.update(part.lower() for part in path.parts[:-1])

    def find(self, name: str, near: str = "") -> str:
        """The path below the root of the image that an annotation calls `name`. Raises NotFoundError.

        The path that ends most like `name` is taken. If folders of `name` are unknown here, because it was written on
        another machine, the file name alone counts. Of several, the one nearest to `near`, the path of the annotation
        file, is taken. Suffixes may differ in case, or be missing in `name`.
        """
        wanted = PurePosixPath(clean(name))
        found = self._by_name.get(_key(wanted.name)) or self._by_name.get(wanted.name, [])
        ranks = [(_common_end(wanted.parts[:-1], other), _common_start(near, other), other) for other in found]
        ranks.sort(reverse=True)
        if not ranks or (not ranks[0][0] and wanted.parent.name.lower() in self._folders):
            raise NotFoundError("no such image on disk")
        if len(ranks) > 1 and ranks[0][:2] == ranks[1][:2]:
            raise NotFoundError("several images on disk have its name")
        return ranks[0][2]


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def _common_end(folders: tuple[str, ...], other: str) -> int:
    pairs = zip(reversed(folders), reversed(PurePosixPath(normal(other)).parts[:-1]), strict=False)
    return next((count for count, (one, two) in enumerate(pairs) if one != two), min(len(folders), other.count("/")))


def _common_start(near: str, other: str) -> int:
    pairs = list(zip(near.split("/")[:-1], other.split("/")[:-1], strict=False))
    return next((count for count, (one, two) in enumerate(pairs) if one != two), len(pairs))


class Look(NamedTuple):
    """size: (height, width) as displayed. stored: as stored. orientation: of EXIF, 1 to 8; 1: not turned."""

    size: Size
    stored: Size
    orientation: int


def look(path: Path) -> Look:
    """The size of an image; reads its header only. Raises NotFoundError if it is not readable."""
    try:
        with Image.open(path, formats=FORMATS) as header:
            orientation = header.getexif().get(ORIENTATION, 1)
            width, height = header.size
    except Exception:  # Pillow's plugins raise many types of exceptions
        raise NotFoundError("the image is not readable") from None
    turned = isinstance(orientation, int) and 5 <= orientation <= 8
    valid = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Look((width, height) if turned else (height, width), (height, width), valid)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises UserError."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check the path and the permissions") from None
    except UnicodeDecodeError:
        raise UserError(path, "is not text in UTF-8", "save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """The content of a JSON file, with or without a byte order mark. Raises UserError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"is not valid JSON ({error})", "export it again; it may be incomplete") from None
