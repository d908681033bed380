"""What is wrong with a data set: one finding for each file or entry, with its kind."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from errors import UserError, one_line

SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")

UNUSABLE_DATA, ODD_VALUES, UNUSABLE_FILE = "unusable data set", "odd values", "unusable file"
WITHOUT_ENTRY, DUPLICATE_PICTURE, LEAK = "file without entry", "duplicate picture", "validation image in training"
EMPTY_CLASS, EMPTY_IMAGE, DUPLICATE_NAME = "empty class", "empty image", "duplicate name"

# The kind of an error, by the first pattern that its text has. Errors are written for people; kinds group them.
KINDS = (
    ("truncated|damaged|the file is empty|not a readable image", "damaged file"),
    (r"\(width x height\).*(is|are|displayed at|image, ) \d+ x \d+|another size|segmentation has size", "other size"),
    ("is not a class", "value is no class"),
    ("has 8 bits per pixel|8-bit depth", "8-bit depth"),
    ("no file with this stem|no (annotation|image) with this stem", "file without counterpart"),
    ("there is no file|no such file|is missing|has no such", "entry without file"),
    ("has the same (stem|name)|names the file|appears twice|, as line|may be ", DUPLICATE_NAME),
    ("(box narrower|box outside|area 0)|^bbox|area ", "degenerate box"),
    ("below data.min_side", "small image"),
    ("is not one of the categories", "unknown category"),
    ("segments_info", "segments differ"),
    ("no (object|segment) of|no pixel is", EMPTY_CLASS),
    ("has no depth|has no annotation", "image without annotation"),
)


@dataclass(frozen=True)
class Finding:
    """One fault. split: train or val. file: the file, or the file and its entry. stops: whether training stops there.

    image: the index of the image that it concerns, in its split; None: of none.
    """

    split: SplitName
    kind: str
    file: str
    what: str
    do: str
    stops: bool
    image: int | None = None

    def record(self) -> dict[str, str | bool]:
        """The finding for JSON."""
        return {key: getattr(self, key) for key in ("split", "kind", "file", "what", "do", "stops")}


def finding_of(
    error: UserError, split: SplitName, stops: bool, image: int | None = None, kind: str | None = None
) -> Finding:
    """The finding that an error tells of. kind: None: by its text."""
    where, what, do = map(one_line, error.args)
    return Finding(split, kind or kind_of(what), where, what, do, stops, image)


def kind_of(what: str, otherwise: str = UNUSABLE_FILE) -> str:
    """The kind of an error, from what it says."""
    return next((kind for pattern, kind in KINDS if re.search(pattern, what)), otherwise)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Each once: those that stop training first, then by kind, then as they were found."""
    unique = {(finding.split, finding.file, finding.what): finding for finding in reversed(list(findings))}
    kept = reversed(unique.values())
    return sorted(kept, key=lambda finding: (not finding.stops, finding.kind, finding.split != "train"))


def by_kind(findings: Iterable[Finding]) -> dict[tuple[bool, str], list[Finding]]:
    """Findings in order, grouped by whether they stop training and by kind."""
    groups: dict[tuple[bool, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.stops, finding.kind), []).append(finding)
    return groups


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
