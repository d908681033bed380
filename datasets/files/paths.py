"""Where COCO's files are, or which setting to correct."""

import os
import stat
from pathlib import Path
from typing import Literal

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
