"""Leaf: how a command of this repository fails when its input is wrong. One line on stderr, exit code 2."""

import argparse
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn


class UserError(Exception):
    """The user's input is wrong. Printed as `error: WHERE: WHAT; DO`.

    where: the file, key or value that is wrong. what: what is wrong with it. do: what to do about it.
    All three are kept as arguments, so that the error survives pickling out of a data worker.
    """

    def __init__(self, where: object, what: str, do: str) -> None:
        super().__init__(str(where), what, do)

    def __str__(self) -> str:
        where, what, do = (" ".join(part.split()) for part in self.args)
        return f"{where}: {what}; {do}"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop by a signal and has saved what there was to save."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose complaints are one-line errors like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage."""
        raise UserError("command line", message, f"see {self.prog} --help")


def suggest(wrong: str, valid: list[str]) -> str:
    """Advice for a name that is not among the valid ones: the nearest one if there is one, else all."""
    by_lower_case = {name.lower(): name for name in valid}
    near = get_close_matches(wrong.lower(), list(by_lower_case), n=1, cutoff=0.5)
    return f"did you mean {by_lower_case[near[0]]}?" if near else f"use one of {', '.join(sorted(valid))}"


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit: 0 done, 2 wrong input, 128+N stopped by signal N. Defects keep their traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Interrupted as stop:
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
