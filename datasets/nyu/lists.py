"""Split lists of NYU Depth V2 and KITTI: read and write them, and recognise the published ones.

A list has a line `image depth focal-length` for each pair. The published lists are those of BTS (Lee et al., 2019),
which DepthFormer uses. Paths are relative to the data's root, even if they start with a slash, as in the training list.
"""

import hashlib
import math
import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.files.folders import Files, normal
from datasets.files.paths import problem_with
from datasets.files.unusable import Unusable
from errors import UserError

SOURCE = "https://github.com/cleinc/bts (train_test_inputs)"
LISTS = {
    "nyu": {"train": "nyu_train.txt", "val": "nyu_test.txt"},
    "kitti": {"train": "kitti_eigen_train.txt", "val": "kitti_eigen_test.txt"},
}
BTS_NAMES = {
    "nyu": {"train": "nyudepthv2_train_files_with_gt.txt", "val": "nyudepthv2_test_files_with_gt.txt"},
    "kitti": {"train": "eigen_train_files_with_gt.txt", "val": "eigen_test_files_with_gt.txt"},
}
PUBLISHED = {  # by SHA-256 of the file; the last one is the hash of the test list's sorted lines without focal lengths
    "66e2beb718a58c5c946c169f6e70cc6ae166ddd19f5618266fff52ff7443e0e9": "published training list, 24,231 pairs",
    "e92c191d5835a22589b843c11b80cd7235d5bd0d4136e42a6debcea4511bf906": "published test list, 654 pairs",
    "c6510d1a83aa28bddb01d4d2db454a8418f89ee1c89fdff234c7f41358e827d1": "published test list, 654 pairs",
}


class Pair(NamedTuple):
    """The paths of an image and its depth map, relative to the root, and the number of their line, from 1."""

    line: int
    image: str
    depth: str


def read_list(file: Path, do: str, unusable: Unusable) -> tuple[list[Pair], list[UserError]]:
    """The pairs of a list, and what to say of each image that has no depth (`None`). Blank lines are skipped.

    do: what the error tells the user to do if the file is missing. A line that is malformed, leads out of the root, or
    has an image that an earlier line has, is unusable. Raises UserError if there is no pair.
    """
    pairs: list[Pair] = []
    without_depth: list[UserError] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(_text(file, do).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in (2, 3) or (len(fields) == 3 and not _is_number(fields[2])):
            what = f"{line.strip()[:120]!r} is not `image depth focal-length`"
            unusable.add(UserError(f"{file} line {number}", what, "write two paths without spaces and a number"))
            continue
        if fields[1] == "None":
            do_nothing = "name its depth map, or leave the line as it is: the image is left out"
            without_depth.append(UserError(f"{file} line {number}", f"{fields[0]} has no depth", do_nothing))
            continue
        try:
            image, depth = (_inside(path, f"{file} line {number}") for path in fields[:2])
        except UserError as error:
            unusable.add(error)
            continue
        if (name := image_id(image)) in seen:
            what = f"image {image} has the same name, {name}, as that of line {seen[name]}"
            unusable.add(UserError(f"{file} line {number}", what, "list every image once"))
            continue
        seen[name] = number
        pairs.append(Pair(number, image, depth))
    if not pairs:
        raise UserError(file, "lists no pair of image and depth", "write a line `image depth focal-length` for each")
    return pairs, without_depth


def image_id(image: str) -> str:
    """The name of an image in prediction files: its path under the root without suffix, in NFC, `/` written as `_`."""
    return os.path.splitext(normal(image))[0].replace("/", "_")


def find_pairs(file: Path, root: Path, pairs: Sequence[Pair], with_images: bool, unusable: Unusable) -> list[Pair]:
    """The pairs with the names that their folders list (see `Files.find`); if not `with_images`, only of depth maps.

    A line of which a depth map is missing, or an image if `with_images`, is unusable.
    """
    files = Files(root)
    missing: list[tuple[int, str]] = []

    def find(line: int, path: str) -> str | None:
        try:
            found = files.find(path)
        except ValueError as error:
            unusable.add(UserError(f"{file} line {line}", str(error), "rename or remove one of them"))
            return None
        if found is None:
            missing.append((line, path))
        return found

    rows = [
        (pair.line, find(pair.line, pair.image) if with_images else pair.image, find(pair.line, pair.depth))
        for pair in pairs
    ]
    more = unusable.more(len(missing) - 1, "and {} more files of the list")
    for line, path in missing:
        what = f"{root / path} is missing{more}"
        do = "add the file, or correct the list or data.root, or leave such lines out with data.on_error=skip"
        unusable.add(UserError(f"{file} line {line}", what, do))
    found = [Pair(line, image, depth) for line, image, depth in rows if image is not None and depth is not None]
    if not found:
        raise UserError(file, "no pair of it is complete", "add the files, or correct the list or data.root")
    return found


def describe_list(file: Path) -> str:
    """A description of the list for results: which published list it is, or its number of pairs and its SHA-256."""
    if problem_with(file, "file"):
        return f"{file.name}, which is not on this machine"
    data = file.read_bytes()
    lines = [line.split() for line in data.decode(errors="replace").splitlines() if line.strip()]
    pairs = [" ".join(path.lstrip("/") for path in fields[:2]) for fields in lines]
    unix = b"\n".join(data.rstrip().splitlines())  # the published files end without a newline
    for candidate in (data, unix, "\n".join(sorted(pairs)).encode()):
        if name := PUBLISHED.get(hashlib.sha256(candidate).hexdigest()):
            return name
    count = sum(fields[1:2] != ["None"] for fields in lines)
    return f"own list {file.name}, {count} pairs, sha256 {hashlib.sha256(data).hexdigest()}"


def format_list(pairs: Iterable[tuple[str, str]], focal: float) -> str:
    """The text of a list of images and depth maps. Like the published ones, it does not end with a newline."""
    return "\n".join(f"{image} {depth} {focal:.4f}" for image, depth in pairs)


def _text(file: Path, do: str) -> str:
    if problem := problem_with(file, "file"):
        raise UserError(file, problem, do)
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(file, f"cannot be read ({error.strerror})", do) from None
    except UnicodeDecodeError:
        raise UserError(file, "is not a text file", do) from None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _inside(path: str, where: str) -> str:
    """The path without leading slashes. Raises UserError if it is not a path, or leads out of the root."""
    inside = posixpath.normpath(path.lstrip("/"))
    if "\0" in inside:
        raise UserError(where, f"{path!r} is not a path", "write a text file in UTF-8")
    if inside == ".." or inside.startswith("../") or inside == ".":
        raise UserError(where, f"{path} leads out of data.root", "write paths of files below it")
    return inside
