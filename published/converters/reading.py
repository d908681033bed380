"""Read files of published weights safely, whoever made them."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from models.wrappers import state_or_none, unwrap
from published.converters.pickles import as_tensor, read_arrays
from published.converters.tensors import State
from storage import check_is_file, read_tensors


def read_published(path: Path) -> tuple[State, str]:
    """Read the tensors of a published file, and a remark: see models/wrappers.py. Floating-point ones become float32.

    Raises UserError if the file is missing, damaged, holds anything else, or a value that is not finite.
    """
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    else:
        content = read_arrays(path) if path.suffix == ".pkl" else read_tensors(path, path)
    found = unwrap(content, partial(_as_state, path=path))
    if found is None:
        raise UserError(path, "is not a dictionary of tensors", "give the published file of weights")
    state, remark = found
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {name}", "has infinite or NaN values", "fetch the file again, or use another")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, remark


def _as_state(content: dict[Any, Any], path: Path) -> State | None:
    if path.suffix == ".pkl":
        content = {name: as_tensor(value, path) for name, value in content.items()}
    return state_or_none(content)


SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS_TYPES |= {"I64": torch.int64, "I32": torch.int32}


def read_safetensors(path: Path) -> State:
    """Read the tensors of a .safetensors file: 8 bytes with the length of a JSON header, the header, the data."""
    check_is_file(path, path)
    try:
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, **entry) for name, entry in header.items()}
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged header can hold anything
        raise UserError(path, f"is not a readable safetensors file ({error})", "fetch it again") from None


def _tensor(data: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = (start + offset for offset in data_offsets)
    torch_dtype = SAFETENSORS_TYPES[dtype]
    if not start <= begin <= end <= len(data):
        raise ValueError("it ends too early")
    if math.prod(shape) * torch_dtype.itemsize != end - begin:
        raise ValueError(f"shape {shape} does not take {end - begin} bytes")
    if begin == end:
        return torch.empty(shape, dtype=torch_dtype)
    return torch.frombuffer(data[begin:end], dtype=torch_dtype).reshape(shape)
