"""Sinks in the run folder. A folder that cannot be written stops the run, as it does for the checkpoint."""

import csv
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from errors import one_line
from runtime.sinks.base import Sink
from storage import write_text


class Board(Sink):
    """TensorBoard, beside the other files of the run, so that it shows the run by the name of its folder.

    purge_step: steps from there on, of an earlier start, are shown no more. kept: lines of `log.jsonl` from an earlier
    start; those from `purge_step` on are shown again.
    """

    def __init__(self, folder: Path, purge_step: int, kept: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # only here: it takes 0.1 s to import

        threading.excepthook = _ignore_os_errors
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        if (settings := folder / "config.yaml").exists():
            code = "".join(f"    {line}\n" for line in settings.read_text().splitlines())  # a code block of Markdown
            self._writer.add_text("settings", code, purge_step)
        for line in kept:
            if line["step"] >= purge_step:
                self.add_numbers(line["section"], line["step"], _numbers(line))

    def add_numbers(self, section: str, step: int, numbers: Mapping[str, float]) -> None:
        """As curves SECTION/NAME."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"{section}/{name}", value, step)
        self._writer.flush()

    def add_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """As pictures/NAME."""
        self._writer.add_image(f"pictures/{one_line(name)}", picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # already reported when it occurred
            self._writer.close()
        threading.excepthook = threading.__excepthook__


class Csv(Sink):
    """`train.csv` and `val.csv`: a row for each step that was logged, a column for each number. No pictures.

    kept: lines of `log.jsonl` from an earlier start; the files are written anew from them.
    """

    def __init__(self, folder: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._columns: dict[str, list[str]] = {}
        for section in ("train", "val"):
            lines = (line for line in kept if line["section"] == section)
            self._rewrite(section, [{"step": line["step"], **_numbers(line)} for line in lines])

    def add_numbers(self, section: str, step: int, numbers: Mapping[str, float]) -> None:
        """As one row."""
        row = {"step": step, **numbers}
        path = self._folder / f"{section}.csv"
        if set(row) - set(self._columns.get(section, ())):
            rows = []
            if path.exists():
                with path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
            self._rewrite(section, [*rows, row])
            return
        with path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns[section]).writerow(row)

    def add_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing: every row is written at once."""

    def _rewrite(self, section: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns[section] = columns = list(dict.fromkeys(name for row in rows for name in row))
        lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
        path = self._folder / f"{section}.csv"
        if rows:
            write_text(path, "".join(f"{line}\n" for line in lines))
        else:
            path.unlink(missing_ok=True)


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "section")}


def _ignore_os_errors(error: threading.ExceptHookArgs) -> None:
    """Print no OSError of TensorBoard's writer thread: the next call of the writer raises it again."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)
