"""Leaf: how a command of this repository fails when its input is wrong. One line on stderr, exit code 2."""

import argparse
import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPIPE})


class UserError(Exception):
    """The user's input is wrong. Printed as `error: WHERE: WHAT; DO`.

    where: the file, key or value that is wrong. what: what is wrong with it. do: what to do about it.
    All three are kept as arguments, so that the error survives pickling out of a data worker.
    """

    def __init__(self, where: object, what: str, do: str) -> None:
        super().__init__(str(where), what, do)

    def __str__(self) -> str:
        where, what, do = map(one_line, self.args)
        return f"{where}: {what}; {do}"


def one_line(text: str) -> str:
    """`text` on one line that any terminal can show; only the beginning and the end of a very long one."""
    line = " ".join(text.split())
    line = line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= 1000 else f"{line[:700]} ... {line[-200:]}"


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


def exit_code(error: BaseException) -> int:
    """What a command that ends with `error` exits with.

    2: wrong input, or a disk that takes no more. 128+N: stopped by signal N. 1: a defect.
    """
    match error:
        case UserError():
            return 2
        case OSError() if error.errno in DISK_ERRORS:
            return 2
        case Interrupted():
            return 128 + error.signal_number
        case KeyboardInterrupt():
            return 130
    return 1


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit, 0 or by `exit_code`. Defects keep their traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(exit_code(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        advice = "free space or see to the disk, then run the same command again"
        full = UserError(error.filename or "output", f"cannot be written ({error.strerror})", advice)
        print(f"error: {full}", file=sys.stderr, flush=True)
        with suppress(OSError):  # if it was this that is full, Python would complain once more
            sys.stdout.close()
        sys.exit(exit_code(error))
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.exit(exit_code(stop))
    sys.exit(0)
