"""Fetch the archives of a data set and unpack them, going on where an earlier start was stopped."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from downloads import RemoteFile, fetch
from errors import UserError

RECORDS = ".prepared"  # folder below the root: for each unpacked archive a list of its files and their sizes


@dataclass(frozen=True)
class Archive:
    """A zip with a part of a data set. url: where it is published. size: in bytes.

    digest: see `RemoteFile`. folders: folders or files that it must have. inner: zips inside it, unpacked beside them.
    """

    url: str
    size: int
    digest: str
    folders: tuple[str, ...]
    inner: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.url).name


def obtain(archive: Archive, root: Path, mirror: str | None, keep: bool, again: str) -> str:
    """Make sure that all files of the archive lie below `root`. Returns one line about what was done.

    The archive itself is taken from `root` if it lies there, else fetched, and removed at the end unless `keep`.
    mirror: fetch MIRROR/NAME instead of the published file; its digest is then not checked. again: the command, for
    error messages. Raises UserError if that fails.
    """
    record = root / RECORDS / f"{archive.name}.json"
    if _is_unpacked(record, root):
        return f"{archive.name}: already unpacked"
    file = RemoteFile(archive.url, root / archive.name, archive.digest, archive.size, again)
    if mirror is not None:  # which may have packed the files in another way
        file = RemoteFile(f"{mirror.rstrip('/')}/{archive.name}", file.path, again=again)
    path = fetch(file)
    try:
        sizes = unpack(path, root, archive.folders)
        for name in archive.inner:
            if name not in sizes:
                raise UserError(path, f"has no {name}", f"remove it, and run {again} again")
            del sizes[name]
            folder = str(PurePosixPath(name).parent)
            sizes |= {f"{folder}/{file}": size for file, size in unpack(root / name, root / folder, None).items()}
            (root / name).unlink()
        record.parent.mkdir(exist_ok=True)
        part = record.with_suffix(".part")
        part.write_text(json.dumps(sizes))
        os.replace(part, record)
        if not keep:
            path.unlink()
    except OSError as error:
        raise UserError(error.filename or root, f"cannot be written ({error.strerror})", "free space") from None
    return f"{archive.name}: {len(sizes):,} files"


def unpack(path: Path, root: Path, folders: tuple[str, ...] | None) -> dict[str, int]:
    """Unpack a zip below `root`; files that are there with the right size stay. Returns all files and their sizes.

    folders: all files must lie in one of these; None: in any. Raises UserError if the zip is damaged or another one,
    and OSError if a file cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if not item.is_dir() and "__MACOSX" not in item.filename]
            _check_members(path, members, folders)
            missing = [item for item in members if _size(root / item.filename) != item.file_size]
            needed, free = sum(item.file_size for item in missing), shutil.disk_usage(root).free
            if needed > free:
                what = f"needs {needed / 1e9:.1f} GB to unpack, and {root} has {free / 1e9:.1f} GB free"
                raise UserError(path, what, "free space or choose another --root")
            for item in tqdm(missing, unit="file", desc=f"unpacking {path.name}", disable=None):
                target = root / item.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.part")
                with archive.open(item) as source, part.open("wb") as output:  # reading to the end checks the CRC
                    shutil.copyfileobj(source, output, 1 << 20)
                os.replace(part, target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(path, f"is not a complete zip ({error})", "remove it, and run the same command again") from None
    return {item.filename: item.file_size for item in members}


def _check_members(path: Path, members: list[zipfile.ZipInfo], folders: tuple[str, ...] | None) -> None:
    for item in members:
        parts = PurePosixPath(item.filename).parts
        if item.filename.startswith("/") or ".." in parts or "\\" in item.filename:
            raise UserError(path, f"holds {item.filename}, which leads out of its folder", "fetch the official archive")
    found = {item.filename for item in members}
    for folder in folders or ():
        if not any(name == folder or name.startswith(f"{folder}/") for name in found):
            tops = sorted({PurePosixPath(name).parts[0] for name in found})[:3]
            what = f"is another archive: it has no {folder}, but {', '.join(tops) or 'nothing'}"
            raise UserError(path, what, "remove it, and run the same command again")


def _is_unpacked(record: Path, root: Path) -> bool:
    try:
        sizes = json.loads(record.read_text())
        return all(_size(root / name) == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def count_files(folder: Path, suffix: str) -> int:
    """How many files with this suffix a folder has; 0 if there is no such folder."""
    return sum(1 for _ in _names(folder, suffix))


def _names(folder: Path, suffix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.name.endswith(suffix))
    except OSError:
        return
