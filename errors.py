"""How a command ends if its input is wrong: one line on stderr and exit code 2."""

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

    where: the file, key or value that is wrong. what: what is wrong with it. do: what the user should do about it.
    All three are passed on as arguments, so that the error can be pickled in a data worker.
    """

    def __init__(self, where: object, what: str, do: str) -> None:
        super().__init__(str(where), what, do)

    def __str__(self) -> str:
        where, what, do = map(one_line, self.args)
        return f"{where}: {what}; {do}"


def one_line(text: str) -> str:
    """`text` as one line of printable characters. The middle of a text of more than 1000 characters is cut out."""
    line = " ".join(text.split())
    line = line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= 1000 else f"{line[:700]} ... {line[-200:]}"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """A signal asked the run to stop, and all that was worth saving is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that reports its errors as UserError."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage."""
        raise UserError("command line", message, f"see {self.prog} --help")


def suggest(wrong: str, valid: list[str]) -> str:
    """Advice for a name that is not valid: the most similar valid name, or all of them if none is similar."""
    by_lower_case = {name.lower(): name for name in valid}
    similar = get_close_matches(wrong.lower(), list(by_lower_case), n=1, cutoff=0.5)
    return f"did you mean {by_lower_case[similar[0]]}?" if similar else f"use one of {', '.join(sorted(valid))}"


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends with `error`.

    2: wrong input, or a disk that cannot be written to. 128+N: stopped by signal N. 1: a defect of this repository.
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
    """Run `main` and exit with 0 or, after an error, with `exit_code`. A defect is raised with its traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(exit_code(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        advice = "free space or check the disk, then run the same command again"
        full = UserError(error.filename or "output", f"cannot be written ({error.strerror})", advice)
        print(f"error: {full}", file=sys.stderr, flush=True)
        with suppress(OSError):  # if stdout goes to the full disk, Python would report the error again at exit
            sys.stdout.close()
        sys.exit(exit_code(error))
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.exit(exit_code(stop))
    sys.exit(0)
