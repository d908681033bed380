"""The one rule for hostile input: it works exactly, or ends in one line that names it, and stays as it was."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from tests.faults.conftest import Tally
from tests.launch import Done

SECONDS = 5  # within which a bad input must be refused
START = 60  # of the first command, which imports everything
CHAPTER = "Hostile input"


class Trial:
    """Tries inputs in this process, and gathers those that break the rule; `end` counts and asserts."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.tried = 0
        self.failures: list[str] = []
        self._capfd = capfd

    def refused(self, name: str, act: Callable[[], object], file: Path, *words: str) -> None:
        """`act` must raise a UserError with the file's path and the words, or one of several: "this|that"."""
        outcome = self._outcome(name, act, file)
        if not isinstance(outcome, UserError):
            self._fail(name, f"was taken: {outcome!r:.200}")
        else:
            self._check_line(name, str(outcome), file, words)

    def taken(self, name: str, act: Callable[[], Any], file: Path, right: Callable[[Any], Any]) -> None:
        """`act` must give something that is `right`."""
        outcome = self._outcome(name, act, file)
        if isinstance(outcome, Exception):
            self._fail(name, f"was not taken: {outcome}")
        elif not right(outcome):
            self._fail(name, f"gave something else: {outcome!r:.200}")

    def either(self, name: str, act: Callable[[], Any], file: Path, right: Callable[[Any], Any]) -> None:
        """One or the other."""
        outcome = self._outcome(name, act, file)
        if isinstance(outcome, UserError):
            self._check_line(name, str(outcome), file, ())
        elif not isinstance(outcome, Exception) and not right(outcome):
            self._fail(name, f"gave something wrong: {outcome!r:.200}")

    def command(self, name: str, done: Done, file: Path, *words: str) -> None:
        """A command must have ended in one line on stderr, with exit code 2, in time."""
        self.tried += 1
        if done.code != 2 or done.err.count("\n") != 1 or not done.err.startswith("error: ") or "Trace" in done.out:
            self._fail(name, f"ended with {done.code}: {done.err}")
        elif done.seconds > SECONDS + START:
            self._fail(name, f"took {done.seconds} s")
        else:
            self._check_line(name, done.err.strip(), file, words)

    def end(self, tally: Tally, what: str) -> None:
        """Count a line of the report."""
        tally(CHAPTER, what, tried=self.tried, lost=len(self.failures))
        assert not self.failures, "\n".join(self.failures)

    def _outcome(self, name: str, act: Callable[[], Any], file: Path) -> Any:
        self.tried += 1
        before, start = _state(file), time.monotonic()
        try:
            outcome = act()
        except Exception as error:
            outcome = error
            if not isinstance(error, UserError):
                self._fail(name, f"{type(error).__name__}: {error}")
        if time.monotonic() - start > SECONDS:
            self._fail(name, f"took {time.monotonic() - start:.1f} s")
        if said := self._capfd.readouterr().err:
            self._fail(name, f"wrote to stderr: {said}")
        if _state(file) != before:
            self._fail(name, "changed the file")
        return outcome

    def _check_line(self, name: str, line: str, file: Path, words: tuple[str, ...]) -> None:
        missing = [word for word in words if not any(choice in line for choice in word.split("|"))]
        shown = str(UserError(file, "", "")).removesuffix(": ; ")
        if "\n" in line or shown not in line or missing:
            self._fail(name, f"said without {missing or file}: {line}")

    def _fail(self, name: str, what: str) -> None:
        self.failures.append(f"{name}: {what}")


def _state(file: Path) -> object:
    """What must not change; content too, unless it has no end."""
    try:
        status = os.lstat(file)
    except (OSError, ValueError):
        return None
    small = stat.S_ISREG(status.st_mode) and status.st_size < 2**24
    return status.st_mtime_ns, status.st_size, file.read_bytes() if small and os.access(file, os.R_OK) else None


@pytest.fixture
def trial(capfd: pytest.CaptureFixture[str]) -> Trial:
    return Trial(capfd)
