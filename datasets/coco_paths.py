"""Where COCO's files are, or which setting to correct."""

import os
import stat
from pathlib import Path
from typing import Any, Literal

from errors import UserError


def below(root: Path, path: str) -> Path:
    """`path` below `root`, or itself if it is absolute; ~ is a home. Raises UserError if there is no such home."""
    try:
        return root.expanduser() / Path(path).expanduser()
    except RuntimeError as error:  # ~ or ~user without a home
        raise UserError(root / path, str(error), "write the whole path") from None


def check_root(root: Path, download: str) -> None:
    """Raises UserError unless `root` is a folder to read. download: what to unpack there."""
    if problem := problem_with(root, "folder"):
        raise UserError(root, problem, f"unpack {download} into one folder and set data.root to it")


def check_path(path: Path, kind: Literal["file", "folder"], key: str) -> None:
    """Raises UserError, naming the `key` of the data that leads there, unless `path` is a file or folder to read."""
    if problem := problem_with(path, kind):
        do = f"check data.root, or set data.{key} to the {kind}'s path below it"
        raise UserError(path, f"{problem}, which the COCO layout needs", do)


def problem_with(path: Path, kind: Literal["file", "folder"]) -> str | None:
    """Why `path` is no file or folder to read; None if it is one."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return f"no such {kind}"
    except OSError as error:
        return f"no {kind} that can be read ({error.strerror})"
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        return f"no such {kind}"
    return None if os.access(path, os.R_OK) else f"no {kind} that may be read (check its permissions)"


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
