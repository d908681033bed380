"""The folder of one run: owned by one run at a time, and by one configuration for ever."""

import fcntl
from pathlib import Path
from typing import Any, TextIO

import yaml

from errors import UserError
from runtime.checkpoint import Checkpoints
from storage import write_text

# Settings that may change between two starts of a run: they do not change what is learnt.
FREE_TO_CHANGE = frozenset({"system", "logging", "output_dir", "data.root"})


class RunFolder:
    """`runs/NAME/` with its lock; used as a context manager by the main process.

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
        place = self.path / "config.yaml"
        try:
            write_text(place, yaml.safe_dump(self.config, sort_keys=False))
        except OSError as error:
            raise UserError(place, f"cannot be written ({error})", "free space, then start again") from None

    def _check_config(self) -> None:
        checkpoints = Checkpoints(self.path / "checkpoints")
        if not checkpoints.folder.exists():
            return
        try:
            before = yaml.safe_load((self.path / "config.yaml").read_text())
        except (yaml.YAMLError, OSError, ValueError):
            before = None
        if not isinstance(before, dict) or before.keys() != self.config.keys():  # lost or cut short
            found = checkpoints.load()
            before = found[0].get("config") if found else self.config
        changed = differences(before, self.config)
        if changed:
            key, old, new = changed[0]
            more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
            advice = f"choose another run_name, or remove {self.path} to start over"
            raise UserError(f"{key}={new}", f"the run in {self.path} was started with {old}{more}", advice)


def lock_folder(path: Path, elsewhere: str, owner: str, other: str) -> TextIO:
    """Make a folder this process's own until the file that is returned is closed.

    Raises UserError, which advises to choose `elsewhere` if it cannot be written, or `other` if an `owner` has it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error})", f"choose {elsewhere}") from None
    try:
        # Not flock: data workers would inherit that lock, and hold it for seconds after their run is killed.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(path, f"{owner} is using this folder", f"stop it or choose {other}") from None
    return lock


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys that decide what is learnt and whose values differ, with both values."""
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
