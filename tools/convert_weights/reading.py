"""Read files of published weights without trusting their author."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from storage import is_state, read_tensors, refuse_special
from tools.convert_weights.pickles import as_tensor, read_arrays
from tools.convert_weights.tensors import State


def read_published(path: Path) -> State:
    """The tensors of a published file, out of its wrappers, floating point ones as float32."""
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    else:
        content = read_arrays(path) if path.suffix == ".pkl" else read_tensors(path, path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict) and path.suffix == ".pkl":
        content = {name: as_tensor(value, path) for name, value in content.items()}
    if not content or not is_state(content):
        raise UserError(path, "is no dictionary of tensors", "give the published file of weights")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    for name, value in content.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: {name}", "is infinite or no number", "fetch the file again, or use another")
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


SAFETENSORS_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path: Path) -> State:
    """The tensors of a .safetensors file: 8 bytes with the length of a JSON header, the header, the data."""
    refuse_special(path, path)
    try:
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, **entry) for name, entry in header.items()}
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except Exception as error:  # a damaged header can hold anything
        raise UserError(path, f"is no safetensors file that can be read ({error})", "fetch it again") from None


def _tensor(data: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = (start + offset for offset in data_offsets)
    kind = SAFETENSORS_TYPES[dtype]
    if not start <= begin <= end <= len(data):
        raise ValueError("it ends too early")
    if math.prod(shape) * kind.itemsize != end - begin:
        raise ValueError(f"shape {shape} does not take {end - begin} bytes")
    if begin == end:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data[begin:end], dtype=kind).reshape(shape)
