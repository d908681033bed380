"""What the compiled code for CPUs reads and writes, as maps_cpu.h has it: which tensors, in which layout."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upsamplers.compiled import load

_HEADER = Path(__file__).with_suffix(".h")
_WORTH_A_THREAD = 1 << 16  # multiplications, about
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Map(ctypes.Structure):
    """A map [B, C, H, W], float32 or bfloat16, contiguous or channels last."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("image", "channel", "pixel", "is_bfloat16")),
    )


def can_read(*tensors: Tensor | None) -> bool:
    """Whether compiled code may read the tensors: on a CPU, float32 or less, none empty.

    Not under tracing (torch.compile, torch.export, ONNX), which knows PyTorch's operators, nor torch.func transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return all(
        tensor is None or (tensor.is_cpu and tensor.dtype in _DTYPES and tensor.numel() > 0) for tensor in tensors
    )


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function PyTorch's operator denseup::name, for CPUs. Types and default values come from its annotations.

    `torch.library.custom_op` does so too, but imports torch.compile at the first call, which takes more than a second.
    """

    def define(function: Callable[..., Any]) -> Any:
        torch.library.define(f"denseup::{name}", torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(f"denseup::{name}", "cpu", function)
        return getattr(torch.ops.denseup, name).default

    return define


def load_functions(source: Path, call: type[ctypes.Structure], names: tuple[str, ...]) -> ctypes.CDLL | None:
    """The functions `names` of a C++ file, which take a pointer to `call` and a number of threads, or None."""
    library = load(source, _HEADER)
    if library is not None:
        for name in names:
            function = getattr(library, name)
            function.argtypes, function.restype = (ctypes.POINTER(call), ctypes.c_int64), ctypes.c_int
    return library


def run(library: ctypes.CDLL | None, name: str, call: ctypes.Structure, products: int) -> None:
    """Call a function, by as many threads as the number of products is worth. Raises MemoryError."""
    assert library is not None
    threads = max(1, min(torch.get_num_threads(), products // _WORTH_A_THREAD))
    if getattr(library, name)(ctypes.byref(call), threads):
        raise MemoryError(f"no memory for the maps that {name} reads")


def layout(x: Tensor) -> torch.memory_format:
    """How the result of reading x lies in memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """A tensor [B, C, H, W] that `as_map` takes."""
    return x.contiguous(memory_format=layout(x))


def as_map(x: Tensor) -> Map:
    """A dense map as compiled code sees it."""
    (C, H, W), last = x.shape[1:], layout(x) == torch.channels_last
    channel, pixel = (1, C) if last else (H * W, 1)
    return Map(x.data_ptr(), C * H * W, channel, pixel, x.dtype == torch.bfloat16)
