"""Loaders that feed the two loops: an endless one for training, an exact one for evaluation.

What a training sample looks like follows from (seed, epoch, index) alone, and which samples make up an optimiser step
from the step's number. So the data do not change with resuming, nor with the number of processes, workers or
accumulation rounds.
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

from datasets.base import DenseDataset, Sample
from datasets.geometry import padded
from datasets.transforms import Transform, applied
from errors import UserError
from structures import Batch, Size, Target

# What random numbers are for: the first word of their seed, so that no two purposes share a stream.
_ORDER, _SAMPLE, _EVALUATION = range(3)

Transforms = Sequence[Transform]
Group = TypeVar("Group")


@dataclass(frozen=True)
class SampleKey:
    """Image `index` as seen in the epoch-th pass over the data."""

    epoch: int
    index: int


@dataclass(frozen=True)
class BatchLayout:
    """How the images of one optimiser step are spread: `per_process` at a time, `accumulation` times, in each process.

    process: this one's number among `processes`.
    """

    per_process: int
    accumulation: int = 1
    processes: int = 1
    process: int = 0

    @property
    def total(self) -> int:
        """Images per optimiser step."""
        return self.per_process * self.accumulation * self.processes


# --- order -----------------------------------------------------------------------------------------------------------


class TrainingOrder:
    """The endless stream of samples: epoch after epoch, each a permutation that depends on (seed, epoch) alone.

    groups: [length] ints. Wherever a position of the stream divides by `group_size`, as many samples of one group
    follow, but for the few that are left over in an epoch.
    """

    def __init__(self, length: int, seed: int, groups: np.ndarray | None = None, group_size: int = 1) -> None:
        self._length = length
        self._seed = seed
        self._groups = groups
        self._group_size = group_size
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> SampleKey:
        epoch, place = divmod(position, self._length)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = self._permuted(np.random.default_rng([_ORDER, self._seed, epoch]))
        return SampleKey(epoch, int(self._permutation[place]))

    def _permuted(self, rng: np.random.Generator) -> np.ndarray:
        order, size = rng.permutation(self._length), self._group_size
        if self._groups is None or size == 1:
            return order
        of_sample = self._groups[order]
        members = [order[of_sample == group] for group in np.unique(of_sample)]
        blocks = np.concatenate([some[: len(some) // size * size] for some in members]).reshape(-1, size)
        loose = np.concatenate([some[len(some) // size * size :] for some in members])
        blocks = blocks[rng.permutation(len(blocks))]
        # The last epoch may have ended within a block: as many loose samples come first, so that blocks start evenly.
        head = -self._epoch * self._length % size
        while len(loose) < head and len(blocks):
            loose, blocks = np.concatenate([loose, blocks[-1]]), blocks[:-1]
        return np.concatenate([loose[:head], blocks.ravel(), loose[head:]])


def micro_batches(order: TrainingOrder, layout: BatchLayout, first_step: int) -> Iterator[list[SampleKey]]:
    """Endlessly this process's part of the stream, from optimiser step `first_step` on, which costs no replay.

    Step t takes positions t * total and on; round a of process r the (a * processes + r)-th `per_process` of them.
    """
    step = first_step
    while True:
        for round_ in range(layout.accumulation):
            start = step * layout.total + (round_ * layout.processes + layout.process) * layout.per_process
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
    """Micro-batches without end: `layout.accumulation` of them make the optimiser step `first_step`, then the next.

    Images are padded at the bottom and the right with 0 to the largest of their batch, rounded up to `size_divisor`;
    semantic targets with IGNORE, masks with False. workers: processes that load; 0: load in this one.
    Raises UserError, from `next`, if a file is unusable or a worker dies.
    """
    read = _TrainingReader(dataset, tuple(transforms), seed, size_divisor)
    order = TrainingOrder(len(dataset), seed, dataset.groups, dataset.group_size)
    keys = micro_batches(order, layout, first_step)
    return iter(_Batches(read, keys, workers, pin_memory))


def evaluation_loader(
    dataset: DenseDataset,
    transforms: Transforms,
    *,
    batch_size: int,
    size_divisor: int,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """Batches of images process, process + processes, .., each once; may be none. Can be iterated repeatedly.

    Transforms see the image alone: targets stay at original size. Images go together only if they have the same size
    after padding to `size_divisor`, so that no image is padded further because of its neighbours.
    Raises UserError, from `next`, if a file is unusable or a worker dies.
    """
    shard = range(process, len(dataset), processes)
    groups = [shard[start : start + batch_size] for start in range(0, len(shard), batch_size)]
    read = _EvaluationReader(dataset, tuple(transforms), size_divisor)
    return _Batches(read, groups, min(workers, len(groups)), pin_memory)


def single_batch(sample: Sample, transforms: Transforms, size_divisor: int) -> Batch:
    """One image as the evaluation loop sees it, outside any dataset; its target is the sample's own annotation."""
    alone = applied(tuple(transforms), sample.without_annotation(), np.random.default_rng([_EVALUATION, 0]))
    return _batch([alone], [padded(alone, _size(alone, size_divisor))], [sample.target()])


def next_batches(batches: Iterator[Batch], count: int) -> tuple[list[Batch], UserError | None]:
    """The next `count` batches, or what went wrong: for a process that must tell the others before it gives up."""
    try:
        return [next(batches) for _ in range(count)], None
    except UserError as problem:
        return [], problem


# --- reading, in a worker --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TrainingReader:
    """Keys of one micro-batch -> that micro-batch."""

    dataset: DenseDataset
    transforms: tuple[Transform, ...]
    seed: int
    size_divisor: int

    def __call__(self, keys: list[SampleKey]) -> list[Batch]:
        samples = [self._sample(key) for key in keys]
        sizes = [_size(sample, self.size_divisor) for sample in samples]
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        samples_padded = [padded(sample, size) for sample in samples]
        return [_batch(samples, samples_padded, [sample.target() for sample in samples_padded])]

    def _sample(self, key: SampleKey) -> Sample:
        rng = np.random.default_rng([_SAMPLE, self.seed, key.epoch, key.index])
        sample = applied(self.transforms, self.dataset.load(key.index), rng)
        return replace(sample, seed=int(rng.integers(2**63)))


@dataclass(frozen=True)
class _EvaluationReader:
    """Indices of one group -> its batches, one for each padded size among them."""

    dataset: DenseDataset
    transforms: tuple[Transform, ...]
    size_divisor: int

    def __call__(self, indices: Sequence[int]) -> list[Batch]:
        by_size: dict[Size, list[tuple[Sample, Target]]] = {}
        for index in indices:
            original = self.dataset.load(index)
            rng = np.random.default_rng([_EVALUATION, index])
            sample = applied(self.transforms, original.without_annotation(), rng)
            by_size.setdefault(_size(sample, self.size_divisor), []).append((sample, original.target()))
        return [
            _batch(
                [sample for sample, _ in pairs], [padded(sample, size) for sample, _ in pairs], [t for _, t in pairs]
            )
            for size, pairs in by_size.items()
        ]


def _size(sample: Sample, divisor: int) -> Size:
    """The sample's size, rounded up to multiples of `divisor`."""
    height, width = (-(-side // divisor) * divisor for side in sample.image.shape[:2])
    return height, width


def _batch(samples: list[Sample], samples_padded: list[Sample], targets: list[Target]) -> Batch:
    images = np.stack([sample.image.transpose(2, 0, 1) for sample in samples_padded])
    return Batch(torch.from_numpy(images), [sample.image.shape[:2] for sample in samples], targets)


# --- workers ---------------------------------------------------------------------------------------------------------


class _Guarded(Dataset[Any], Generic[Group]):
    """Groups in, batches out. A UserError is returned, since raised in a worker it would arrive wrapped in a trace."""

    def __init__(self, read: Callable[[Group], list[Batch]]) -> None:
        self._read = read

    def __getitem__(self, group: Group) -> list[Batch] | UserError:
        try:
            return self._read(group)
        except UserError as error:
            return error


@dataclass(frozen=True)
class _Batches(Generic[Group]):
    """The batches that `read` makes of each group, in order, read ahead by `workers` processes."""

    read: Callable[[Group], list[Batch]]
    groups: Iterable[Group]
    workers: int
    pin_memory: bool

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            _Guarded(self.read),
            sampler=self.groups,
            batch_size=None,  # a group is the loader's item; the reader collates
            collate_fn=_unchanged,
            num_workers=self.workers,
            worker_init_fn=_prepare_worker if self.workers else None,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else every iteration takes a number from the global one
        )
        answers = iter(loader)
        if self.workers and threading.current_thread() is threading.main_thread():
            # PyTorch lets a worker's death interrupt the main process anywhere; this leaves it to the next `next`.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            while (answer := self._next(answers)) is not None:
                if isinstance(answer, UserError):
                    raise answer
                yield from answer
        finally:
            del answers  # ends the workers at once, even where a traceback keeps this frame alive

    def _next(self, answers: Iterator[list[Batch] | UserError]) -> list[Batch] | UserError | None:
        """The next answer, None after the last. A worker's death is a UserError, too."""
        try:
            return next(answers, None)
        except (RuntimeError, OSError, EOFError) as error:
            if self.workers == 0 or str(error).startswith("Caught "):
                raise  # a defect, with the trace of where it arose
            reason = (str(error) or type(error).__name__).splitlines()[0]
            do = "give the machine more memory (or shared memory, /dev/shm), or set fewer system.workers"
            return UserError("data loading", f"a worker process died ({reason})", do)


def _unchanged(answer: list[Batch] | UserError) -> list[Batch] | UserError:
    return answer


def _prepare_worker(_: int) -> None:
    """PyTorch itself has limited a worker to one thread and made it end with its parent."""
    cv2.setNumThreads(0)
    # Stop signals are for the main process, which saves and then ends its workers. Those sent to the whole process
    # group, as by Ctrl-C and torchrun, pass a group of its own; the others are ignored.
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
