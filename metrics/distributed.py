"""Combine the metric states of all processes."""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

Value = TypeVar("Value")


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """The exact sum of int64 arrays over all processes; with one process, `counts` itself. All must call it."""
    if not dist.is_initialized():
        return counts
    total = torch.from_numpy(counts.copy())
    if dist.get_backend() == "nccl":  # needs CUDA tensors
        total = total.cuda()
    dist.all_reduce(total)
    return total.cpu().numpy()


def gather_objects(value: Value) -> list[Value]:
    """The values of all processes, in order of rank. All must call it.

    Values are sent pickled. This temporarily needs memory for (number of processes) x (size of the largest value): main
    memory, or memory of the current CUDA device if NCCL is the only backend.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
