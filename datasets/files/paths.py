"""Resolve and check the paths in a dataset's configuration; errors say which setting to correct."""

import os
import shlex
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


def check_root(root: Path, name: str, tool: str) -> None:
    """Raise UserError unless `root` is a readable folder. name: of the data set. tool: the command that fetches it."""
    problem = problem_with(root, "folder")
    if problem and root.parent.name == "scenes":  # of the demos
        where = shlex.quote(str(root.parent))
        do = f"run make scenes, which is python -m tools.make_scenes --root {where}, or correct data.root"
        raise UserError(root, problem, do)
    if problem:
        do = f"correct data.root, or fetch {name} with python -m tools.{tool} --root {shlex.quote(str(root))}"
        raise UserError(root, problem, do)


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
