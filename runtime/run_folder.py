"""The folder of one run. Only one process may use it at a time, and only with the settings it was started with."""

import fcntl
from pathlib import Path
from typing import Any, TextIO

import yaml

from errors import UserError
from runtime.checkpoint import Checkpoints
from storage import write_text

# Settings that may change when a run is resumed, because they do not change what is learnt.
FREE_TO_CHANGE = frozenset({"system", "logging", "output_dir", "data.root"})


class RunFolder:
    """Context manager of the main process: locks `runs/NAME/`, checks its settings and writes config.yaml.

    Raises UserError if it cannot be written, if another run is using it, or if it holds a run with other settings.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config

    def __enter__(self) -> "RunFolder":
        self._lock = lock_folder(self.path, "another output_dir", "another run", "another run_name")
        try:
            self._check_config()
            self._write_config()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _write_config(self) -> None:
        path = self.path / "config.yaml"
        try:
            write_text(path, yaml.safe_dump(self.config, sort_keys=False))
        except OSError as error:
            raise UserError(path, f"cannot be written ({error})", "free space, then start again") from None

    def _check_config(self) -> None:
        checkpoints = Checkpoints(self.path / "checkpoints")
        if not checkpoints.folder.exists():
            return
        try:
            saved = yaml.safe_load((self.path / "config.yaml").read_text())
        except (yaml.YAMLError, OSError, ValueError):
            saved = None
        if not isinstance(saved, dict) or saved.keys() != self.config.keys():  # lost or cut short
            found = checkpoints.load()
            saved = found[0].get("config") if found else self.config
        changed = differences(saved, self.config)
        if changed:
            key, old, new = changed[0]
            more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
            advice = f"choose another run_name, or remove {self.path} to start over"
            raise UserError(f"{key}={new}", f"the run in {self.path} was started with {old}{more}", advice)


def lock_folder(path: Path, other_folder: str, holder: str, other_name: str) -> TextIO:
    """Make a folder and lock it for this process, until the returned file is closed.

    other_folder, holder, other_name: for the error messages. Raises UserError if the folder cannot be written ("choose
    OTHER_FOLDER") or is locked ("HOLDER is using this folder; stop it or choose OTHER_NAME").
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error})", f"choose {other_folder}") from None
    try:
        # Not flock: data workers would inherit that lock and keep it for seconds after the run is killed.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(path, f"{holder} is using this folder", f"stop it or choose {other_name}") from None
    return lock


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both values. Keys that are FREE_TO_CHANGE are left out."""
    if key in FREE_TO_CHANGE or old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(name for name in new if name not in old)]
        return [
            item
            for name in keys
            for item in differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [(key, old, new)]
