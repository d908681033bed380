"""Leaf: files that are written whole or not at all; files of tensors that are read without trusting their author."""

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

from errors import UserError

# Tensors may take so many times the bytes of their file: weights that are tied, or stored beside their average.
_LARGEST_EXPANSION = 4
_NAMED = 3  # so many tensors are named in an error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to. If that succeeds it is flushed to the disk and takes the place of `path`.

    After an error `path` is what it was. A device or a pipe is written to as it is. Raises OSError.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Make `text` the content of `path`, wholly or, raising OSError, not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def refuse_special(path: Path, where: object) -> None:
    """Raise UserError if `path` is missing, a folder, a pipe or a device, which could be read for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(where, "no such file", "correct the path, or fetch the file as the README says") from None
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror})", "name a readable file") from None
    if not stat.S_ISREG(mode):
        raise UserError(where, "is a folder, a pipe or a device", "name a file")


def read_tensors(path: Path, where: object) -> Any:
    """What torch.save wrote to `path`: tensors on CPU and plain values.

    Nothing in the file can run code, nor fill the memory: it may not be compressed, and its tensors may be no larger
    than the numbers that it holds. Raises UserError, naming `where`, for any other file.
    """
    refuse_special(path, where)
    try:
        _refuse_compressed(path, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats and tensors that are refused anyway
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
        raise UserError(where, "holds names outside of itself, which torch.save never writes", "do not use it")


def _refuse_inflated(content: Any, path: Path, where: object) -> None:
    total = 0
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(where, "holds tensors that are sparse, quantised or empty shells", "save plain tensors")
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes() or total > _LARGEST_EXPANSION * path.stat().st_size:
            raise UserError(where, "holds tensors larger than the file that they come from", "do not use it")


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, each container once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _damaged(where: object) -> UserError:
    return UserError(where, "is damaged, or no file of PyTorch", "fetch or convert it again")


def is_state(content: Any) -> bool:
    """Whether this is a dictionary from names to tensors."""
    if not isinstance(content, dict):
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def check_state(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object) -> None:
    """Raise UserError, naming `where`, unless names, shapes and kinds are the same and all that is given is finite.

    A real number may be stored in fewer bits; an integer or a complex number is another kind.
    """
    misfits = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {list(given[name].shape)}, here {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
        "of another kind": [
            f"{name} {given[name].dtype}, here {tensor.dtype}"
            for name, tensor in wanted.items()
            if name in given and not _same_kind(given[name], tensor)
        ],
    }
    problems = [f"{len(names)} tensors {kind} ({_first(names)})" for kind, names in misfits.items() if names]
    if problems:
        advice = "name weights of this very network, or leave out what differs by model.weights_exclude"
        raise UserError(where, f"does not fit the model: {', '.join(problems)}", advice)
    broken = [name for name, tensor in given.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if broken:
        what = f"holds weights that are infinite or no numbers ({_first(broken)})"
        raise UserError(where, what, "use weights from before the training diverged")


def _same_kind(given: Tensor, wanted: Tensor) -> bool:
    if given.is_floating_point() and wanted.is_floating_point():
        return True
    return given.dtype == wanted.dtype


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
