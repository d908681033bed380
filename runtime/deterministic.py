"""Runs that repeat bit for bit, on CUDA too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from errors import UserError


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Context in which PyTorch uses only deterministic algorithms, if `wanted`. They may be slower.

    Raises UserError, naming the operation, where PyTorch has no such algorithm. On CPU this is not needed: with the
    same number of threads our runs repeat bit for bit anyway.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = f"is not possible here ({str(error).split('.')[0]})"
        raise UserError("system.deterministic", what, "choose another component, or set it to false") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
