"""How a command ends if its input is wrong: one line on stderr and exit code 2."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

# What the operating system's error numbers mean here, for all that reads and writes files. A number that is on none of
# these lists means what it always does: the call has failed, and the error says why (EACCES and EPERM: not permitted;
# ENAMETOOLONG, ELOOP: a wrong path; ETXTBSY, EBUSY: in use). EINTR never arrives: Python repeats the call.
#
# The disk, or the way to it, can take or give nothing more. This ends a command with one line, wherever it happens:
# full (ENOSPC, EDQUOT, EFBIG), broken or read-only (EIO, EROFS), a closed pipe (EPIPE), gone (ENODEV, ENXIO; on a
# network ESTALE, ETIMEDOUT, EHOSTDOWN, EHOSTUNREACH; of a file system in user space ENOTCONN, ECONNABORTED).
_FULL_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPIPE}
_GONE = {errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
DISK_ERRORS = frozenset(_FULL_OR_BROKEN | _GONE | {errno.ENOTCONN, errno.ECONNABORTED})
# The file system does not offer the call. What it is for is left out, or done in another way.
_NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Of fsync, of a file or a folder. A folder may also be refused before that: by EBADF, since it is opened for reading
# only, or as it is opened (EISDIR; EACCES and EPERM: one may write to it, but not list it).
NO_FSYNC = frozenset(_NOT_OFFERED)
NO_FOLDER_FSYNC = frozenset(_NOT_OFFERED | {errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM})
# Of link: there are no hard links, not here (EPERM, EXDEV, EACCES), or no more of this file (EMLINK). A copy will do.
NO_LINKS = frozenset(_NOT_OFFERED | {errno.EPERM, errno.EXDEV, errno.EACCES, errno.EMLINK})
# Of lockf: there are no locks, or the network's lock service does not answer (ENOLCK).
NO_LOCKS = frozenset(_NOT_OFFERED | {errno.ENOLCK})
# Of lockf: another process holds the lock.
LOCKED = frozenset({errno.EAGAIN, errno.EACCES})
# Of a look at a file: it is not there. Anything else does not say whether it is.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
# Of reading a file: its own data are lost, so that an older file may serve. After anything else it may still be sound.
UNREADABLE = frozenset({errno.EIO})


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

    @property
    def brief(self) -> str:
        """`WHERE: WHAT`, without the advice, in one line."""
        return one_line(f"{self.args[0]}: {self.args[1]}")


def one_line(text: str) -> str:
    """`text` as one line of printable characters. The middle of a text of more than 1000 characters is cut out."""
    line = " ".join(text.split())
    line = line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= 1000 else f"{line[:700]} ... {line[-200:]}"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """A signal asked the command to stop. Its notes (`add_note`) say what is saved, and are printed at the end.

    saved: whether all that was worth saving is saved.
    """

    def __init__(self, signal_number: int, saved: bool = True) -> None:
        super().__init__(signal_number, saved)
        self.signal_number, self.saved = signal_number, saved


class _Paragraphs(argparse.HelpFormatter):
    """Wraps each paragraph of a description by itself. argparse would make one of all."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that reports its errors as UserError."""

    def __init__(
        self,
        prog: str,
        description: str | None = None,
        formatter_class: type[argparse.HelpFormatter] = _Paragraphs,
    ) -> None:
        super().__init__(prog=prog, description=description, formatter_class=formatter_class)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage. It knows the two slips that are made with KEY=VALUE."""
        files = [word for word in sys.argv[1:] if word.endswith((".yaml", ".yml"))]
        advice = f"see {self.prog} --help"
        if "required: --cfg" in message and files:
            advice = f"write --cfg {files[0]}"
        if message.startswith("unrecognized arguments: --") and self.get_default("overrides") == []:
            advice = f"settings are KEY=VALUE without dashes, for example model.upsampler=carafe; {advice}"
        raise UserError("command line", message, advice)


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


def read_early(read_arguments: Callable[..., object], *given: object) -> None:
    """Read the command line before the imports that take seconds: --help or an error in it ends the command at once.

    `main` reads it again. In one of several processes (torchrun) only `main` does, so that one of them reports.
    Until `run_command`, Ctrl-C ends the command at once: in an import it would only show a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        try:
            read_arguments(*given)
        except UserError as error:
            _end(error)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit with 0 or, after an error, with `exit_code`. A defect is raised with its traceback."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by `read_early`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        _end(error)
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
        for note in getattr(stop, "__notes__", ()):
            print(note, flush=True)
        sys.exit(exit_code(stop))
    sys.exit(0)


def _end(error: UserError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(exit_code(error))
