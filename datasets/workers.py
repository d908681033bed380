"""Read batches or other items in worker processes. A worker reports a bad file without a traceback, and may die."""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from errors import UserError

Group = TypeVar("Group")
Item = TypeVar("Item")


class _ReaderDataset(Dataset[Any], Generic[Group, Item]):
    """The dataset of PyTorch's data loader: each of its items is what `read` makes of a group.

    A UserError is returned: if a worker raised it, it would arrive with its message buried in a traceback.
    """

    def __init__(self, read: Callable[[Group], list[Item]]) -> None:
        self._read = read

    def __getitem__(self, group: Group) -> list[Item] | UserError:
        try:
            return self._read(group)
        except UserError as error:
            return error


@dataclass(frozen=True)
class BatchLoader(Generic[Group, Item]):
    """An iterable of the batches that `read` makes of each group, in order; `workers` processes read ahead.

    Each is at most two groups ahead, which bounds the memory. workers_setting: what sets their number, for errors.
    """

    read: Callable[[Group], list[Item]]
    groups: Iterable[Group]
    workers: int
    pin_memory: bool = False
    workers_setting: str = "system.workers"

    def __iter__(self) -> Iterator[Item]:
        with warnings.catch_warnings():  # PyTorch's says twice for each loader what train.py says once
            warnings.filterwarnings("ignore", "This DataLoader will create")
            loader = DataLoader(
                _ReaderDataset(self.read),
                sampler=self.groups,
                batch_size=None,  # a group is one item of the dataset; the reader collates
                collate_fn=_identity,
                num_workers=self.workers,
                worker_init_fn=_initialize_worker if self.workers else None,
                pin_memory=self.pin_memory,
                generator=torch.Generator(),  # else every iteration would draw from the global generator
            )
            results = iter(loader)
        if self.workers and threading.current_thread() is threading.main_thread():
            # PyTorch's handler raises anywhere in the main process when a worker dies. Without it, only `next` raises.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            while (result := self._next(results)) is not None:
                if isinstance(result, UserError):
                    raise result
                yield from result
        finally:
            del results  # ends the workers at once, even if a traceback keeps this frame alive

    def _next(self, results: Iterator[list[Item] | UserError]) -> list[Item] | UserError | None:
        """The next result; None after the last. If a worker has died, the result is a UserError."""
        try:
            return next(results, None)
        except (RuntimeError, OSError, EOFError) as error:
            if self.workers == 0 or str(error).startswith("Caught "):
                raise  # a defect, with the traceback of its origin
            reason = (str(error) or type(error).__name__).splitlines()[0]
            do = f"give the machine more memory (or shared memory, /dev/shm), or set fewer {self.workers_setting}"
            return UserError("data loading", f"a worker process died ({reason})", do)


def _identity(result: list[Item] | UserError) -> list[Item] | UserError:
    return result


def _initialize_worker(_: int) -> None:
    """Add to what PyTorch does: it limits a worker to one torch thread and ends it with its parent."""
    cv2.setNumThreads(0)
    # Stop signals are for the main process, which saves and then ends its workers. Ctrl-C and torchrun signal a whole
    # process group, so a worker leaves it for a group of its own; signals to the worker itself are ignored.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
