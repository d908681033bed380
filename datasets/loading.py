"""Data loaders: an endless one for training, and one for evaluation that visits every image once.

A training sample depends only on (seed, epoch, index), and the samples of an optimiser step only on the step's number.
So the data do not change when a run is resumed, nor with the number of processes, workers or accumulation rounds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.base import DenseDataset, Sample, Transform
from datasets.geometry import pad
from datasets.transforms import apply_all
from errors import UserError
from structures import Batch, Size, Target

# Purposes of random numbers. Each is the first number of its seeds, so that no two purposes share a random stream.
_ORDER, _SAMPLE, _EVALUATION = range(3)

Transforms = Sequence[Transform]
Group = TypeVar("Group")


@dataclass(frozen=True)
class SampleKey:
    """Image `index` as seen in epoch `epoch`."""

    epoch: int
    index: int


@dataclass(frozen=True)
class BatchLayout:
    """How the images of one optimiser step are divided into micro-batches.

    per_process: images per micro-batch. accumulation: micro-batches that each process accumulates. world_size: number
    of processes. rank: of this process, from 0.
    """

    per_process: int
    accumulation: int = 1
    world_size: int = 1
    rank: int = 0

    @property
    def total(self) -> int:
        """Images per optimiser step."""
        return self.per_process * self.accumulation * self.world_size


# --- order -----------------------------------------------------------------------------------------------------------


class TrainingOrder:
    """The endless stream of samples: one epoch after another, each a permutation that depends only on (seed, epoch).

    groups: [length] ints. At every position that is a multiple of `group_size`, the next `group_size` samples are of
    one group, except for the few that are left over in an epoch.
    """

    def __init__(self, length: int, seed: int, groups: np.ndarray | None = None, group_size: int = 1) -> None:
        self._length = length
        self._seed = seed
        self._groups = groups
        self._group_size = group_size
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, self._length)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = self._permute(np.random.default_rng([_ORDER, self._seed, epoch]))
        return SampleKey(epoch, int(self._permutation[offset]))

    def _permute(self, rng: np.random.Generator) -> np.ndarray:
        order, size = rng.permutation(self._length), self._group_size
        if self._groups is None or size == 1:
            return order
        groups = self._groups[order]
        members = [order[groups == group] for group in np.unique(groups)]
        blocks = np.concatenate([indices[: len(indices) // size * size] for indices in members]).reshape(-1, size)
        rest = np.concatenate([indices[len(indices) // size * size :] for indices in members])
        blocks = blocks[rng.permutation(len(blocks))]
        # The previous epoch may have ended within a block. Start with that many ungrouped samples, so that blocks are
        # aligned.
        head = -self._epoch * self._length % size
        while len(rest) < head and len(blocks):
            rest, blocks = np.concatenate([rest, blocks[-1]]), blocks[:-1]
        return np.concatenate([rest[:head], blocks.ravel(), rest[head:]])


def micro_batch_keys(order: TrainingOrder, layout: BatchLayout, first_step: int) -> Iterator[list[SampleKey]]:
    """Yield endlessly the keys of this process's micro-batches. Starting at a late step costs nothing.

    Optimiser step t has the `layout.total` positions from t * total on. They are divided into parts of `per_process`;
    accumulation round a of rank r takes part a * world_size + r.
    """
    step = first_step
    while True:
        for round_ in range(layout.accumulation):
            start = step * layout.total + (round_ * layout.world_size + layout.rank) * layout.per_process
            yield [order[position] for position in range(start, start + layout.per_process)]
        step += 1


# --- loaders ---------------------------------------------------------------------------------------------------------


def training_loader(
    dataset: DenseDataset,
    transforms: Transforms,
    *,
    seed: int,
    layout: BatchLayout,
    size_divisor: int,
    first_step: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """An endless iterator of micro-batches, `layout.accumulation` for each optimiser step, from `first_step` on.

    Images are padded with 0 at the bottom and the right to the largest height and width of their batch, rounded up to
    multiples of `size_divisor`; semantic targets are padded with IGNORE, masks with False. workers: number of loading
    processes; 0: load in this one.
    `next` raises UserError if a file is unusable or a worker dies.
    """
    read = _TrainingReader(dataset, tuple(transforms), seed, size_divisor)
    order = TrainingOrder(len(dataset), seed, dataset.groups, dataset.group_size)
    keys = micro_batch_keys(order, layout, first_step)
    return iter(_BatchLoader(read, keys, workers, pin_memory))


def evaluation_loader(
    dataset: DenseDataset,
    transforms: Transforms,
    *,
    batch_size: int,
    size_divisor: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """Batches of the images rank, rank + world_size, .., each once; there may be none. Can be iterated repeatedly.

    Transforms change the image only; targets keep the original size. A batch has only images that have equal sizes
    after padding to multiples of `size_divisor`, so the other images of a batch never change an image's padding.
    `next` raises UserError if a file is unusable or a worker dies.
    """
    shard = range(rank, len(dataset), world_size)
    groups = [shard[start : start + batch_size] for start in range(0, len(shard), batch_size)]
    read = _EvaluationReader(dataset, tuple(transforms), size_divisor)
    return _BatchLoader(read, groups, min(workers, len(groups)), pin_memory)


def single_batch(sample: Sample, transforms: Transforms, size_divisor: int) -> Batch:
    """A batch with one image, as in evaluation. Its target is the annotation of `sample`, at original size."""
    image = apply_all(tuple(transforms), sample.without_annotation(), np.random.default_rng([_EVALUATION, 0]))
    return _collate([image], [pad(image, _padded_size(image, size_divisor))], [sample.target()])


def next_batches(batches: Iterator[Batch], count: int) -> tuple[list[Batch], UserError | None]:
    """The next `count` batches, or the error: for a process that must tell the others before it raises."""
    try:
        return [next(batches) for _ in range(count)], None
    except UserError as problem:
        return [], problem


# --- readers, which run in workers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TrainingReader:
    """Reads one micro-batch: a list of keys in, a list with one batch out."""

    dataset: DenseDataset
    transforms: tuple[Transform, ...]
    seed: int
    size_divisor: int

    def __call__(self, keys: list[SampleKey]) -> list[Batch]:
        samples = [self._sample(key) for key in keys]
        sizes = [_padded_size(sample, self.size_divisor) for sample in samples]
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        padded = [pad(sample, size) for sample in samples]
        return [_collate(samples, padded, [sample.target() for sample in padded])]

    def _sample(self, key: SampleKey) -> Sample:
        rng = np.random.default_rng([_SAMPLE, self.seed, key.epoch, key.index])
        sample = apply_all(self.transforms, self.dataset.load(key.index), rng)
        return replace(sample, seed=int(rng.integers(2**63)))


@dataclass(frozen=True)
class _EvaluationReader:
    """Reads one group of images: indices in, one batch for each padded size out."""

    dataset: DenseDataset
    transforms: tuple[Transform, ...]
    size_divisor: int

    def __call__(self, indices: Sequence[int]) -> list[Batch]:
        by_size: dict[Size, list[tuple[Sample, Target]]] = {}
        for index in indices:
            original = self.dataset.load(index)
            rng = np.random.default_rng([_EVALUATION, index])
            sample = apply_all(self.transforms, original.without_annotation(), rng)
            by_size.setdefault(_padded_size(sample, self.size_divisor), []).append((sample, original.target()))
        batches = []
        for size, pairs in by_size.items():
            samples, targets = [sample for sample, _ in pairs], [target for _, target in pairs]
            batches.append(_collate(samples, [pad(sample, size) for sample in samples], targets))
        return batches


def _padded_size(sample: Sample, divisor: int) -> Size:
    """The sample's size, rounded up to multiples of `divisor`."""
    height, width = (-(-side // divisor) * divisor for side in sample.image.shape[:2])
    return height, width


def _collate(samples: list[Sample], padded: list[Sample], targets: list[Target]) -> Batch:
    images = np.stack([sample.image.transpose(2, 0, 1) for sample in padded])
    return Batch(torch.from_numpy(images), [sample.image.shape[:2] for sample in samples], targets)


# --- workers ---------------------------------------------------------------------------------------------------------


class _ReaderDataset(Dataset[Any], Generic[Group]):
    """The dataset of PyTorch's data loader: its items are the batches that `read` makes of a group.

    A UserError is returned: if a worker raised it, it would arrive with its message buried in a traceback.
    """

    def __init__(self, read: Callable[[Group], list[Batch]]) -> None:
        self._read = read

    def __getitem__(self, group: Group) -> list[Batch] | UserError:
        try:
            return self._read(group)
        except UserError as error:
            return error


@dataclass(frozen=True)
class _BatchLoader(Generic[Group]):
    """An iterable of the batches that `read` makes of each group, in order; `workers` processes read ahead."""

    read: Callable[[Group], list[Batch]]
    groups: Iterable[Group]
    workers: int
    pin_memory: bool

    def __iter__(self) -> Iterator[Batch]:
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

    def _next(self, results: Iterator[list[Batch] | UserError]) -> list[Batch] | UserError | None:
        """The next result; None after the last. If a worker has died, the result is a UserError."""
        try:
            return next(results, None)
        except (RuntimeError, OSError, EOFError) as error:
            if self.workers == 0 or str(error).startswith("Caught "):
                raise  # a defect, with the traceback of its origin
            reason = (str(error) or type(error).__name__).splitlines()[0]
            do = "give the machine more memory (or shared memory, /dev/shm), or set fewer system.workers"
            return UserError("data loading", f"a worker process died ({reason})", do)


def _identity(result: list[Batch] | UserError) -> list[Batch] | UserError:
    return result


def _initialize_worker(_: int) -> None:
    """Add to what PyTorch does: it limits a worker to one torch thread and ends it with its parent."""
    cv2.setNumThreads(0)
    # Stop signals are for the main process, which saves and then ends its workers. Ctrl-C and torchrun signal a whole
    # process group, so a worker leaves it for a group of its own; signals to the worker itself are ignored.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
