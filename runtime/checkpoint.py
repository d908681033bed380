"""Checkpoints, written atomically and with a checksum.

A checkpoint is an ordinary `torch.save` file of tensors and plain values: `torch.load(path, weights_only=True)` opens
it anywhere. Such a file is a zip archive; the SHA-256 of its bytes is stored as the comment of the archive.
A new checkpoint is written under another name, flushed to the disk and renamed; the one before is kept as
`previous.pt`.
"""

import errno
import hashlib
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from errors import ABSENT, NO_LINKS, UNREADABLE, UserError
from storage import flush_folder, fsync, is_state, read_tensors, replace_atomically

LABEL = b"sha256:"
COMMENT_LENGTH = len(LABEL) + 64
LINK = "link.part"  # temporary name of a hard link before it replaces a checkpoint


class DamagedCheckpointError(Exception):
    """The file is not a complete checkpoint as train.py wrote it."""


class Checkpoints:
    """The checkpoints of one run: `last.pt`, `previous.pt` (the one before) and `best.pt`, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.previous, self.best = (folder / f"{name}.pt" for name in ("last", "previous", "best"))
        self._last_is_intact = True

    def exist(self) -> bool:
        """Whether there is any checkpoint, damaged or not. Raises UserError if the folder cannot be looked into."""
        return bool(self._present())

    def _present(self) -> list[Path]:
        """The checkpoints that are there, the newest first. Raises UserError where that cannot be told."""
        return [path for path in (self.last, self.previous, self.best) if _is_there(path)]

    def save(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Save `state` as the last checkpoint and, if `is_best`, also as the best one.

        Raises UserError if it cannot be written; the last undamaged checkpoint, if any, is then still there.
        """
        part = self.folder / "last.pt.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(state, part)
            if is_best:
                _replace_by_link(part, self.best)
            if self.last.exists() and self._last_is_intact:
                _replace_by_link(self.last, self.previous)
            part.replace(self.last)
            self._last_is_intact = True
            flush_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
            with suppress(OSError):
                part.unlink(missing_ok=True)
                (self.folder / LINK).unlink(missing_ok=True)
            intact = "; the previous checkpoint is intact" if os.path.exists(self.last) else ""
            advice = "free space or fix the permissions, then run the same command again"
            raise UserError(self.last, f"cannot be written ({error}){intact}", advice) from error

    def load(self) -> tuple[dict[str, Any], Path] | None:
        """Load the newest checkpoint that is not damaged. Return it and its path, or None if there is no checkpoint.

        Prints a warning if it is not the last one. Raises UserError if there are checkpoints and all are damaged, or if
        one cannot be reached, though it may be sound.
        """
        present = self._present()
        for path in present:
            try:
                state = _read(path)
            except DamagedCheckpointError as error:
                self._last_is_intact = self._last_is_intact and path != self.last
                advice = "" if path == present[-1] else "; trying the previous checkpoint"
                print(f"warning: {path} {error}{advice}", flush=True)
                continue
            if path != present[0]:
                print(f"warning: using {path}, of step {state.get('step')}", flush=True)
            return state, path
        if present:
            raise UserError(
                present[0], "is damaged, and so is every older one", "restore it or choose another run_name"
            )
        return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load one checkpoint and verify it. Raises UserError if it is missing, damaged or not a checkpoint of train.py."""
    if not path.is_file():
        what = "is a folder, a pipe or a device" if path.exists() else "no such checkpoint"
        raise UserError(path, what, "name a .pt file or a run folder")
    try:
        state = _read(path)
    except DamagedCheckpointError as error:
        raise UserError(path, str(error), "use another checkpoint, for example previous.pt beside it") from None
    check_content(state, path)
    return state


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Save a checkpoint outside a run's folder, atomically. Raises UserError if it cannot be written."""
    try:
        with replace_atomically(path) as part:
            _write(state, part)
    except (OSError, RuntimeError) as error:
        raise UserError(path, f"cannot be written ({error})", "name a file in a folder with space left") from error


def check_content(state: dict[str, Any], path: Path) -> None:
    """Raise UserError unless `state` has the entries of a checkpoint of train.py, with the right types."""
    types: dict[str, Any] = {"config": dict, "model": dict, "ema": dict | None, "step": int}
    wrong = [key for key, expected in types.items() if key not in state or not isinstance(state[key], expected)]
    wrong += [key for key in ("model", "ema") if key not in wrong and not is_state(state[key] or {})]
    if wrong:
        what = f"is not a checkpoint of this project's train.py (see {', '.join(wrong)})"
        raise UserError(path, what, "convert weights with tools.convert_weights")


def is_checkpoint(path: Path) -> bool:
    """Whether `path` ends with a checksum as our checkpoints do. A file of converted weights does not."""
    if not path.is_file() or path.stat().st_size < COMMENT_LENGTH:
        return False
    with path.open("rb") as file:
        file.seek(-COMMENT_LENGTH, os.SEEK_END)
        return file.read(len(LABEL)) == LABEL


def _is_there(path: Path) -> bool:
    """Whether there is a file. A folder that cannot be looked into must not pass for one without checkpoints."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        advice = "see to it that the folder can be read, then run the same command again; or choose another run_name"
        raise UserError(path, f"may be there or not ({error.strerror})", advice) from None
    return True


def _write(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path)
    with path.open("r+b") as file:
        digest = _digest(file, length=path.stat().st_size - 2)  # the last 2 bytes are the length of the comment
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", COMMENT_LENGTH) + LABEL + digest)
        file.flush()
        fsync(file.fileno())


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise DamagedCheckpointError("is not a file")
        size = path.stat().st_size
        with path.open("rb") as file:
            if size > COMMENT_LENGTH + 22:  # an empty archive has 22 bytes
                digest = _digest(file, length=size - COMMENT_LENGTH - 2)
                stored = file.read()
            else:
                digest = stored = b""
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        if error.errno not in UNREADABLE:
            raise UserError(path, what, "see to it that it can be read, then run the same command again") from None
        raise DamagedCheckpointError(what) from None
    if stored[2 : 2 + len(LABEL)] != LABEL:
        raise DamagedCheckpointError("is cut short, or not a checkpoint of train.py: it has no checksum")
    if stored != struct.pack("<H", COMMENT_LENGTH) + LABEL + digest:
        raise DamagedCheckpointError("is damaged or incomplete: its checksum does not match")
    try:
        state = read_tensors(path, path)
    except UserError as error:
        raise DamagedCheckpointError(error.args[1]) from None
    if not isinstance(state, dict):
        raise DamagedCheckpointError("does not hold a dictionary")
    return state


def _digest(file: Any, length: int) -> bytes:
    """Hexadecimal SHA-256 of the first `length` bytes. The file position is then behind these bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while length:
        block = file.read(min(length, 1 << 20))
        if not block:
            raise OSError(errno.EIO, "the file ends too early")
        digest.update(block)
        length -= len(block)
    return digest.hexdigest().encode()


def _replace_by_link(source: Path, target: Path) -> None:
    """Replace `target` by a hard link to `source`, atomically. Checkpoints are never changed in place, so this is safe.

    On a file system without hard links the file is copied.
    """
    part = target.with_name(LINK)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            fsync(file.fileno())
    part.replace(target)
    part.unlink(missing_ok=True)  # `replace` does nothing if both names already belong to the same file
