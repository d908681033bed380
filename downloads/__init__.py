"""Download files: resumed after a cut, checked before anything reads them, by one process of a machine at a time."""

import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from errors import UserError

BLOCK = 1 << 20
SECONDS_WITHOUT_DATA = 60.0
TRIES = 3  # in a row without a single new byte; a slow or unsteady connection goes on as long as it advances
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class RemoteFile:
    """A published file. path: where it is stored. size: in bytes, if it is known.

    digest: "sha256:" or "md5:", and the first hexadecimal digits, as many as the publisher gives. For error messages,
    again: the command that goes on; known: how the digest is known; more_space: what helps if the disk is full.
    """

    url: str
    path: Path
    digest: str = ""
    size: int | None = None
    again: str = "the same command"
    known: str = "is published"
    more_space: str = "choose another folder"

    @property
    def by_hand(self) -> str:
        """The advice to fetch the file elsewhere."""
        return f"or fetch it elsewhere, store it as {self.path}, and run {self.again} again"


def fetch(file: RemoteFile) -> Path:
    """Make sure that the file lies at its path, with the published digest, and return the path.

    What a broken download has left (`NAME.part`) is continued. Other processes that want the same file wait. Raises
    UserError if there is no connection, the server does not give the file, the disk is full, or the digest is wrong.
    """
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(file.path):
            if file.path.exists():
                check_digest(file)
            else:
                _download(file)
    except OSError as error:
        what = f"cannot be written ({error.strerror}), from {file.url}"
        raise UserError(file.path, what, f"free space or {file.more_space}, and run {file.again} again") from None
    return file.path


def check_digest(file: RemoteFile) -> None:
    """Raise UserError unless the file at the path has the published size and digest."""
    if problem := _problem_with(file, file.path):
        raise UserError(file.path, problem, f"remove it and run {file.again} again, {file.by_hand}")


def _problem_with(file: RemoteFile, path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as opened:
        start = opened.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page (of a network that asks to sign in, or of a publisher that has moved the file)"
    algorithm, _, expected = file.digest.partition(":")
    found = digest_of(path, algorithm) if expected else ""
    if found.startswith(expected) and file.size in (None, size):
        return None
    if not found.startswith(expected):
        return f"has {algorithm} {found[:16]}.. where {expected[:16]}.. {file.known}"
    return f"has {size} bytes where {file.size} are published"


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The SHA-256 (or MD5) of a file, in hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process work on `path` at a time. On a file system without locks, all go ahead."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        with suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _download(file: RemoteFile) -> None:
    part = file.path.with_name(f"{file.path.name}.part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(file, part):
                break
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            what = f"the server answers {error.code} {error.reason}"
            raise UserError(file.url, what, f"see whether the file has moved, {file.by_hand}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures == TRIES:
            kept = f"; {after} bytes are kept and continued" if after else ""
            raise UserError(file.url, f"cannot be fetched ({reason}){kept}", f"check the network, {file.by_hand}")
        if failures:
            time.sleep(PAUSE_SECONDS)
    _validator(part).unlink(missing_ok=True)
    if problem := _problem_with(file, part):
        part.unlink()
        raise UserError(file.url, f"what the server sent {problem}; it was removed", f"try again, {file.by_hand}")
    os.replace(part, file.path)


def _receive(file: RemoteFile, part: Path) -> bool:
    """Append what is missing to `part`. Returns whether the file is now complete."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "denseup", "Accept-Encoding": "identity"}
    validator = _validator(part).read_text() if start and _validator(part).exists() else ""
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:  # another file by now? then the server sends it from its start
            headers["If-Range"] = validator
    try:
        request = urllib.request.Request(file.url, headers=headers)
        response = urllib.request.urlopen(request, timeout=SECONDS_WITHOUT_DATA)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(start):
            return True
        part.unlink()
        return False
    with response:
        if response.status != 206:
            start = 0
            _validator(part).write_text(_tag(response))
        length = response.headers.get("Content-Length")
        total_size = start + int(length) if length is not None else file.size
        _check_space(file, part, None if total_size is None else total_size - start)
        done = start
        with (
            part.open("ab" if start else "wb") as output,
            tqdm(total=total_size, initial=start, unit="B", unit_scale=True, desc=file.path.name, disable=None) as bar,
        ):
            while block := response.read(BLOCK):
                output.write(block)
                bar.update(len(block))
                done += len(block)
    return total_size is None or done >= total_size


def _tag(response: http.client.HTTPResponse) -> str:
    """What tells two versions of a file apart, for If-Range: a strong ETag, or the date of the last change."""
    tag = response.headers.get("ETag") or ""
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _check_space(file: RemoteFile, part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        what = f"needs {needed / 1e9:.2f} GB more, and {part.parent} has {free / 1e9:.2f} GB free"
        raise UserError(file.url, what, f"free space or {file.more_space}, and run {file.again} again")
