"""Files of detectron2's kind: a pickle of dictionaries of NumPy arrays."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from storage import refuse_special

_SCALAR: Any = np.float32(0).__reduce__()[0]
_KIND = object()  # stands for the class of arrays, which called by itself would take any amount of memory


def _empty_array(kind: object, shape: tuple[int, ...], _: bytes) -> np.ndarray:
    """What NumPy begins an array with; its shape and its bytes follow."""
    if kind is not _KIND or shape != (0,):
        raise pickle.UnpicklingError("it makes an array by itself")
    return np.empty(0)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {encoding}")
    return text.encode("latin1")


# All that arrays and dictionaries are made with, by the names of NumPy 1 and 2. Whatever else a pickle calls could do
# anything on this machine.
HARMLESS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    ("numpy", "ndarray"): _KIND,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the pickle calls by this name. Raises UnpicklingError if it is not HARMLESS."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return HARMLESS[module, name]


def read_arrays(path: Path) -> Any:
    """What the pickle holds. Raises UserError if it is missing, damaged, or holds more than arrays and plain values."""
    refuse_special(path, path)
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged pickle can fail anywhere in NumPy
        what = f"is no pickle of arrays alone ({error})"
        raise UserError(path, what, "give the published file; one that holds more could run code") from None


def as_tensor(value: Any, path: Path) -> Tensor | Any:
    """An array of the pickle `path` as a tensor, anything else as it is. UserError for an array of other things."""
    if not isinstance(value, np.ndarray):
        return value
    if value.nbytes > path.stat().st_size:
        raise UserError(path, "holds an array larger than the file", "do not use it")
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError) as error:
        raise UserError(path, f"is no pickle of arrays alone ({error})", "give the published file") from None
