"""Bring together what all processes have counted."""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

Value = TypeVar("Value")


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """The int64 array summed over all processes, exactly; unchanged where there is only one. All must call it."""
    if not dist.is_initialized():
        return counts
    total = torch.from_numpy(counts.copy())
    if dist.get_backend() == "nccl":  # takes CUDA tensors only
        total = total.cuda()
    dist.all_reduce(total)
    return total.cpu().numpy()


def gather_objects(value: Value) -> list[Value]:
    """`value` of every process, in order of rank. All must call it.

    It travels pickled and needs room for (number of processes) x (size of the largest) meanwhile: in main memory, or on
    the current CUDA device where NCCL is the only backend.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
