"""The folder of one run. Only one start of a run may use it at a time, and only with settings that continue the run."""

import fcntl
import os
import shutil
from contextlib import suppress
from errno import ENAMETOOLONG
from pathlib import Path
from typing import TextIO

import yaml

from config import Schema, dump
from errors import LOCKED, NO_LOCKS, UserError
from runtime.changes import Change, changes
from runtime.checkpoint import Checkpoints
from storage import write_text


class RunFolder:
    """Context manager of the main process: locks `runs/NAME/`, checks its settings and writes config.yaml.

    Its value is the list of settings that have changed since an earlier start, and with which the run may go on.
    Raises UserError if it cannot be written, if another run is using it, or if it holds a run with settings with which
    this one would not continue it (see `runtime.changes`). A start that ends with an error before it has learnt
    anything leaves no folder that was not there before.
    """

    def __init__(self, path: Path, settings: Schema) -> None:
        self.path, self.settings = path, settings

    def __enter__(self) -> list[Change]:
        self._made = [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]
        self._lock = lock_folder(self.path, "another output_dir", "another run", "another run_name")
        try:
            changed = self._check_settings()
            self._write_config()
        except BaseException:
            self._remove_made()
            self._lock.close()
            raise
        return changed

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None and not self._has_begun():
            self._remove_made()
        self._lock.close()

    def _has_begun(self) -> bool:
        """Whether there is anything to go on from, or to look at. If that cannot be told, there is."""
        try:
            return (self.path / "checkpoints").exists() or '"section": "train"' in (self.path / "log.jsonl").read_text()
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _remove_made(self) -> None:
        """Remove the run's folder, and the empty ones above it, as far as this start has made them."""
        with suppress(OSError):
            if self.path in self._made:
                shutil.rmtree(self.path)
            for folder in self._made[1:]:
                folder.rmdir()

    def _write_config(self) -> None:
        path = self.path / "config.yaml"
        try:
            write_text(path, yaml.safe_dump(dump(self.settings), sort_keys=False))
        except OSError as error:
            raise UserError(path, f"cannot be written ({error})", "free space, then start again") from None

    def _check_settings(self) -> list[Change]:
        checkpoints = Checkpoints(self.path / "checkpoints")
        if not checkpoints.folder.exists():
            return []
        try:
            saved = yaml.safe_load((self.path / "config.yaml").read_text())
        except (yaml.YAMLError, OSError, ValueError):
            saved = None
        if not isinstance(saved, dict) or saved.keys() != dump(self.settings).keys():  # lost or cut short
            found = checkpoints.load()
            saved = found[0].get("config") if found else dump(self.settings)
        changed = changes(saved, self.settings)
        refused = [change for change in changed if change.note is None]
        if refused:
            first = refused[0]
            what = f"the run in {self.path} was started with {first.old}, and with another value {first.reason}"
            what += f" (and {len(refused) - 1} more keys)" if len(refused) > 1 else ""
            advice = f"choose another run_name, or remove {self.path} to start over"
            raise UserError(f"{first.key}={first.new}", what, advice)
        return changed


def lock_folder(path: Path, other_folder: str, holder: str, other_name: str) -> TextIO:
    """Make a folder and lock it for this process, until the returned file is closed.

    other_folder, holder, other_name: for the error messages. Raises UserError if the folder cannot be written ("choose
    OTHER_FOLDER") or is locked ("HOLDER is using this folder; stop it or choose OTHER_NAME"). On a file system without
    locks it prints a warning, and the folder is not locked.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        choice = f"{other_name} or {other_folder}, a shorter one" if error.errno == ENAMETOOLONG else other_folder
        raise UserError(path, f"cannot be written ({error})", f"choose {choice}") from None
    try:
        # Not flock: data workers would inherit that lock and keep it for seconds after the run is killed.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            warning = f"its file system has no locks ({error.strerror}); nothing keeps {holder} out of this folder"
            print(f"warning: {path}: {warning}", flush=True)
            return lock
        lock.close()
        if error.errno in LOCKED:
            raise UserError(path, f"{holder} is using this folder", f"stop it or choose {other_name}") from None
        raise UserError(path, f"cannot be locked ({error})", f"choose {other_folder}") from None
    return lock
