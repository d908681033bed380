"""The common record: what every reader makes and every writer takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from structures import Size

Task = Literal["det", "inst", "seg", "pan", "depth"]
SplitName = Literal["train", "val", "test"]
Box = tuple[float, float, float, float]
SPLIT_WORDS: Mapping[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHOWN = 5  # names in a line


@dataclass
class Object:
    """One object. label: the name of its class. box: x, y, width, height, in pixels of the displayed image.

    segmentation: COCO's polygons, or compressed run lengths; None: it has only a box. crowd: neither learnt nor scored.
    id, area: as given; None: not given. rectangle: whether it was drawn as rectangles alone: a mask only where masks
    are wanted. Of panoptic data a segment is an object, without segmentation; its id is that in the PNG.
    """

    label: str
    box: Box
    segmentation: Any = None
    crowd: bool = False
    id: int | None = None
    area: float | None = None
    rectangle: bool = False


@dataclass
class Item:
    """One image. name: its path below the source, with `/`. size: (height, width) as displayed. split: None: not given.

    objects: of boxes and masks, or segments. labels: the file of the label map, the depth map or the segments.
    labels_fit: whether training can read the PNG of segments as it is. content: the image's bytes if they lie in an
    annotation file. id: as given; None: not given.
    """

    image: Path
    name: str
    size: Size
    split: SplitName | None = None
    objects: list[Object] = field(default_factory=list)
    labels: Path | None = None
    labels_fit: bool = False
    content: bytes | None = None
    id: int | None = None


@dataclass
class Table:
    """The classes of label maps: their values, or their colours (r, g, b). ignored: the same of pixels to ignore."""

    classes: dict[int | tuple[int, int, int], str]
    ignored: set[int | tuple[int, int, int]] = field(default_factory=set)

    @property
    def has_colours(self) -> bool:
        """Whether the maps hold colours."""
        return any(isinstance(key, tuple) for key in self.classes)


@dataclass
class Source:
    """A whole data set. classes: names of the objects' classes by category id. things: which of panoptic data are some.

    table: of label maps. depth_scale: units of the depth maps per metre. as_stored: whether training can read the label
    files as they are. image_end, label_end: how the stems of images and label files end.
    """

    task: Task
    items: list[Item]
    classes: dict[int, str] = field(default_factory=dict)
    things: frozenset[str] = frozenset()
    table: Table | None = None
    depth_scale: float = 1.0
    as_stored: bool = False
    image_end: str = ""
    label_end: str = ""


class Report:
    """What was dropped, by reason with the names, and what else a user must know."""

    def __init__(self) -> None:
        self.dropped: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}

    def drop(self, reason: str, name: object) -> None:
        """Something is left out."""
        self.dropped.setdefault(reason, []).append(str(name))

    def note(self, what: str, name: object = "") -> None:
        """Something is kept, but not as it was."""
        self.notes.setdefault(what, []).extend([str(name)] if name != "" else [])

    def lines(self, all_names: bool = False) -> list[str]:
        """One line for each reason, with the number and the first names, or all of them."""
        lines = [
            f"dropped {len(names)}: {reason} ({_some(names, all_names)})" for reason, names in self.dropped.items()
        ]
        for what, names in self.notes.items():
            lines.append(f"note: {what}" + (f": {len(names)} ({_some(names, all_names)})" if names else ""))
        return lines


def _some(names: list[str], all_names: bool) -> str:
    shown = names if all_names else names[:SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def split_of(path: str) -> SplitName | None:
    """The split that a folder in a path names, the last one first: `train/images/a.jpg`, `images/valid/a.jpg`."""
    for part in reversed(path.split("/")[:-1]):
        if part.lower() in SPLIT_WORDS:
            return SPLIT_WORDS[part.lower()]
    return None


def file_split(path: str) -> SplitName | None:
    """The split that the name of a file has in it, or else a folder: `annotations/instances_val2017.json`."""
    words = PurePosixPath(path).stem.lower().replace("-", "_").replace(".", "_").split("_")
    words += [word.rstrip("0123456789") for word in words]
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), split_of(path))


def numbered(names: Iterable[str]) -> dict[int, str]:
    """Category ids from 1 for the names, in their order."""
    return dict(enumerate(dict.fromkeys(names), start=1))
