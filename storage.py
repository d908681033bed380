"""Write files atomically, and read files of tensors safely, whoever made them."""

import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import NO_FOLDER_FSYNC, NO_FSYNC, UserError

# Tensors may take at most this many times the bytes of their file: weights may be tied, or stored beside their average.
_MAX_EXPANSION = 4
_MAX_NAMES = 3  # tensors that an error lists


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Give a new file beside `path` to write to. It is flushed to the disk at the end and then replaces `path`.

    After an error `path` is unchanged. If `path` is a device or a pipe, it is written to directly. Raises OSError.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def fsync(descriptor: int) -> None:
    """Flush an open file to the disk, if its file system offers that. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, if its file system offers that. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_FSYNC:
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically. If that fails, raises OSError and leaves `path` unchanged."""
    with replace_atomically(path) as part:
        part.write_text(text, encoding="utf-8")


def check_is_file(path: Path, where: object) -> None:
    """Raise UserError, naming `where`, unless `path` is a regular file. Reading a pipe or device might never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(where, "no such file", "correct the path, or fetch the file as docs/weights.md says") from None
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror})", "name a readable file") from None
    if (best := path / "checkpoints" / "best.pt").exists():
        raise UserError(where, "is the folder of a run", f"name its checkpoint, {best}")
    if not stat.S_ISREG(mode):
        raise UserError(where, "is a folder, a pipe or a device", "name a file")


def read_tensors(path: Path, where: object) -> Any:
    """Read a file written by torch.save: tensors on CPU and plain values.

    The file can neither run code nor fill the memory: it must not be compressed, and its tensors must not be larger
    than the data in the file. Raises UserError, naming `where`, for any other file.
    """
    check_is_file(path, where)
    try:
        _refuse_compressed(path, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about formats and tensors that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_inflated(content, path, where)
        return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror or error})", "name a readable file") from None
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise _damaged(where) from None
        what = f"holds more than tensors ({blocked[1]}), and loading that could run code"
        raise UserError(where, what, "save its state_dict alone where the file comes from, then use that") from None
    except Exception:  # a damaged file can fail in any way
        raise _damaged(where) from None


def _refuse_compressed(path: Path, where: object) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return  # the format of PyTorch before 1.6
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError(where, "is compressed, which torch.save never does, and could be of any size", "do not use it")
    if any(".." in entry.filename.split("/") or entry.filename.startswith("/") for entry in entries):
        raise UserError(where, "holds paths outside the archive, which torch.save never writes", "do not use it")


def _refuse_inflated(content: Any, path: Path, where: object) -> None:
    total = 0
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(where, "holds tensors that are sparse, quantised or without data", "save plain tensors")
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes() or total > _MAX_EXPANSION * path.stat().st_size:
            raise UserError(where, "holds tensors larger than the file itself", "do not use it")


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers; each container is visited once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _damaged(where: object) -> UserError:
    return UserError(where, "is damaged, or not a PyTorch file", "fetch or convert it again")


def is_state(content: Any) -> bool:
    """Whether this is a state dict: a dictionary from names to tensors."""
    if not isinstance(content, dict):
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def check_state(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object, may_exclude: bool = False
) -> None:
    """Raise UserError, naming `where`, unless names, shapes and dtypes agree and all given values are finite.

    may_exclude: whether tensors that differ may be left out by a setting; for the advice.
    All real floating-point dtypes agree with each other; integers and complex numbers must have the same dtype.
    """
    misfits = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {list(given[name].shape)}, here {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
        "of another dtype": [
            f"{name} {given[name].dtype}, here {tensor.dtype}"
            for name, tensor in wanted.items()
            if name in given and not _dtypes_agree(given[name], tensor)
        ],
    }
    problems = [f"{len(names)} tensors {kind} ({_list_names(names)})" for kind, names in misfits.items() if names]
    if problems:
        advice = "name weights and a configuration that belong together"
        if may_exclude:
            advice = "name weights of this network, or exclude the tensors that differ by model.weights_exclude"
        raise UserError(where, f"does not fit the model: {', '.join(problems)}", advice)
    broken = [name for name, tensor in given.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if broken:
        what = f"holds weights that are infinite or NaN ({_list_names(broken)})"
        raise UserError(where, what, "use weights from before the training diverged")


def _dtypes_agree(given: Tensor, wanted: Tensor) -> bool:
    if given.is_floating_point() and wanted.is_floating_point():
        return True
    return given.dtype == wanted.dtype


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
