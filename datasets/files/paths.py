"""Resolve and check the paths in a dataset's configuration; errors say which setting to correct."""

import os
import stat
from pathlib import Path
from typing import Literal

from errors import UserError


def resolve_path(root: Path, path: str) -> Path:
    """`path` below `root`, or `path` itself if it is absolute. ~ is expanded; UserError if there is no such home."""
    try:
        return root.expanduser() / Path(path).expanduser()
    except RuntimeError as error:  # ~ or ~user without a home
        raise UserError(root / path, str(error).rstrip("."), "write the full path") from None


def check_root(root: Path, download: str) -> None:
    """Raise UserError unless `root` is a readable folder. download: what the error tells the user to unpack there."""
    if problem := problem_with(root, "folder"):
        raise UserError(root, problem, f"unpack {download} into one folder and set data.root to it")


def check_path(path: Path, kind: Literal["file", "folder"], key: str) -> None:
    """Raise UserError unless `path` is a readable file or folder of COCO's layout. key: its setting in `data`."""
    if problem := problem_with(path, kind):
        do = f"check data.root, or set data.{key} to the {kind}'s path below it"
        raise UserError(path, f"{problem}, which the COCO layout needs", do)


def problem_with(path: Path, kind: Literal["file", "folder"]) -> str | None:
    """What is wrong with `path`, as text; None if it is a readable file or folder, as `kind` says."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        return f"no such {kind}"
    except OSError as error:
        return f"this {kind} cannot be read ({error.strerror})"
    if not (stat.S_ISREG if kind == "file" else stat.S_ISDIR)(mode):
        return f"no such {kind}"
    return None if os.access(path, os.R_OK) else f"this {kind} may not be read (check its permissions)"
