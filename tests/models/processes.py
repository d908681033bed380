"""Two processes of a training, played by two threads: they meet in every exchange, also of a backward pass."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")
COUNT = 2


def in_two_processes(monkeypatch: pytest.MonkeyPatch, function: Callable[[int], Result]) -> list[Result]:
    """What `function` gives for rank 0 and for rank 1."""
    ranks, barrier = threading.local(), threading.Barrier(COUNT, timeout=60)
    given: list[Tensor] = [torch.empty(0)] * COUNT

    def all_reduce(tensor: Tensor) -> None:
        given[ranks.rank] = tensor.clone()
        barrier.wait()
        total = given[0] + given[1]
        barrier.wait()
        tensor.copy_(total)

    def all_gather(everyone: list[Tensor], tensor: Tensor) -> None:
        given[ranks.rank] = tensor.clone()
        barrier.wait()
        for place, other in zip(everyone, given, strict=True):
            place.copy_(other)
        barrier.wait()

    def run(rank: int) -> Result:
        ranks.rank = rank
        return function(rank)

    with monkeypatch.context() as patch, ThreadPoolExecutor(COUNT) as threads:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_world_size", lambda: COUNT)
        patch.setattr(dist, "all_reduce", all_reduce)
        patch.setattr(dist, "all_gather", all_gather)
        return list(threads.map(run, range(COUNT)))


def assert_two_learn_like_one(
    monkeypatch: pytest.MonkeyPatch, gradients: Callable[[list[int], int], tuple[dict[str, Tensor], list[Tensor]]]
) -> None:
    """Assert that losses and gradients of images 0 and 1 are the means of those of two processes with one image each.

    gradients: losses by name, and the gradients of their sum, for a list of images and the number of processes.
    """
    losses, whole = gradients([0, 1], 1)
    (first, left), (second, right) = in_two_processes(monkeypatch, lambda rank: gradients([rank], COUNT))
    assert losses.keys() == first.keys()
    for name, loss in losses.items():
        assert loss.item() != 0, name
        torch.testing.assert_close((first[name] + second[name]) / 2, loss, rtol=1e-4, atol=1e-6, msg=name)
    halves = torch.cat([(a + b).flatten() / 2 for a, b in zip(left, right, strict=True)])
    together = torch.cat([gradient.flatten() for gradient in whole])
    assert (halves - together).norm() <= 1e-4 * together.norm()
