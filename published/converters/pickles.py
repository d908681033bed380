"""Read files like those of detectron2: a pickle of dictionaries of NumPy arrays."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from storage import check_is_file

_SCALAR: Any = np.float32(0).__reduce__()[0]
_ARRAY_CLASS = object()  # replaces np.ndarray: a pickle that calls that class could allocate any amount of memory


def _empty_array(array_class: object, shape: tuple[int, ...], _: bytes) -> np.ndarray:
    """The empty array from which NumPy unpickles; its shape and bytes are set afterwards."""
    if array_class is not _ARRAY_CLASS or shape != (0,):
        raise pickle.UnpicklingError("it makes an array in another way than NumPy does")
    return np.empty(0)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {encoding}")
    return text.encode("latin1")


# The only functions that a pickle may call: those for arrays and dictionaries, under the names of NumPy 1 and 2. Any
# other function could do anything on this machine.
HARMLESS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    ("numpy", "ndarray"): _ARRAY_CLASS,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The function that the pickle calls by this name. Raises UnpicklingError if it is not HARMLESS."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return HARMLESS[module, name]


def read_arrays(path: Path) -> Any:
    """Read the pickle. Raises UserError if it is missing, damaged, or holds more than arrays and plain values."""
    check_is_file(path, path)
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged pickle can fail anywhere in NumPy
        what = f"is not a pickle of arrays only ({error})"
        raise UserError(path, what, "give the published file; one that holds more could run code") from None


def as_tensor(value: Any, path: Path) -> Tensor | Any:
    """Turn an array of the pickle `path` into a tensor; return any other value unchanged.

    Raises UserError for an array that is not of numbers, or is larger than the file.
    """
    if not isinstance(value, np.ndarray):
        return value
    if value.nbytes > path.stat().st_size:
        raise UserError(path, "holds an array larger than the file", "do not use it")
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError) as error:
        raise UserError(path, f"is not a pickle of arrays only ({error})", "give the published file") from None
