"""Files of detectron2's kind: a pickle of dictionaries of NumPy arrays."""

import _codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from errors import UserError

_ARRAY, _SCALAR = (value.__reduce__()[0] for value in (np.empty(0), np.float32(0)))
# All that arrays and dictionaries are made with, by the names of NumPy 1 and 2. Whatever else a pickle calls could do
# anything on this machine.
HARMLESS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _codecs.encode,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the pickle calls by this name. Raises UnpicklingError if it is not HARMLESS."""
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return HARMLESS[module, name]


def read_arrays(path: Path) -> Any:
    """What the pickle holds, arrays as tensors. Raises UserError if it is missing, damaged, or holds anything else."""
    try:
        with path.open("rb") as file:
            return _as_tensors(_Arrays(file, encoding="latin1").load())
    except FileNotFoundError:
        raise UserError(path, "no such file", "correct the path") from None
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged pickle can fail anywhere in NumPy
        what = f"is no pickle of arrays alone ({error})"
        raise UserError(path, what, "give the published file; one that holds more could run code") from None


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tensors(item) for name, item in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
