"""Data loaders: an endless one for training, and one for evaluation that visits every image once.

A training sample depends only on (seed, epoch, index), and the samples of an optimiser step only on the step's number.
So the data do not change when a run is resumed, nor with the number of processes, workers or accumulation rounds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from datasets.base import DenseDataset, Sample, Transform
from datasets.frequency import draw, epoch_length
from datasets.geometry import pad_annotation
from datasets.transforms import apply_all, divide
from datasets.workers import BatchLoader
from errors import UserError
from structures import Batch, Size, Target

# Purposes of random numbers. Each is the first number of its seeds, so that no two purposes share a random stream.
_ORDER, _SAMPLE, _EVALUATION = range(3)

Transforms = Sequence[Transform]


@dataclass(frozen=True)
class SampleKey:
    """Image `index` as seen in epoch `epoch`; if it is repeated there, the `copy`, from 0."""

    epoch: int
    index: int
    copy: int = 0


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

    factors: [length], how often each image is in an epoch on average (see `datasets.frequency.draw`); None: once.
    groups: [length] ints. At every position that is a multiple of `group_size`, the next `group_size` samples are of
    one group, except for the few that are left over in an epoch.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        groups: np.ndarray | None = None,
        group_size: int = 1,
        factors: np.ndarray | None = None,
    ) -> None:
        self._images, self._factors = length, factors
        self._length = length if factors is None else epoch_length(factors)
        self._seed = seed
        self._groups = groups
        self._group_size = group_size
        self._epoch = -1
        self._order = self._copies = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, self._length)
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng([_ORDER, self._seed, epoch])
            if self._factors is None:
                order, copies = rng.permutation(self._images), np.zeros(self._images, np.int64)
            else:
                order, copies = draw(self._factors, rng)
            places = self._grouped(order, rng)
            self._order, self._copies = order[places], copies[places]
        return SampleKey(epoch, int(self._order[offset]), int(self._copies[offset]))

    def _grouped(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The places [length] of `images` [length], so arranged that groups come in blocks."""
        order, size = np.arange(len(images)), self._group_size
        if self._groups is None or size == 1:
            return order
        groups = self._groups[images]
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
    multiples of `size_divisor`; semantic targets are padded with IGNORE, masks with False. Where the transforms allow
    it, batches are normalised by `Batch.to`. workers: number of loading processes; 0: load in this one.
    `next` raises UserError if a file is unusable or a worker dies.
    """
    read = _TrainingReader(dataset, tuple(transforms), seed, size_divisor)
    order = TrainingOrder(len(dataset), seed, dataset.groups, dataset.group_size, dataset.repeat_factors())
    keys = micro_batch_keys(order, layout, first_step)
    return iter(BatchLoader(read, keys, workers, pin_memory))


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
    return BatchLoader(read, groups, min(workers, len(groups)), pin_memory)


def single_batch(sample: Sample, transforms: Transforms, size_divisor: int) -> Batch:
    """A batch with one image, as in evaluation. Its target is the annotation of `sample`, at original size."""
    return image_batches([sample], transforms, size_divisor)[0]


def image_batches(samples: Iterable[Sample], transforms: Transforms, size_divisor: int) -> list[Batch]:
    """Batches as in evaluation, one for each padded size. Their targets are the annotations, at original size."""
    pairs = []
    for sample in samples:
        rng = np.random.default_rng([_EVALUATION, 0])
        pairs.append((_transformed(sample.without_annotation(), tuple(transforms), rng), sample.target()))
    return _batches_by_size(pairs, tuple(transforms), size_divisor)


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
        images = [self._image(key) for key in keys]
        sizes = [_padded_size(image, self.size_divisor) for image in images]
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        targets = [pad_annotation(image.sample, size).target() for image in images]
        return [_collate(images, targets, size, self.transforms)]

    def _image(self, key: SampleKey) -> "_Transformed":
        own = key.index + key.copy * len(self.dataset)
        rng = np.random.default_rng([_SAMPLE, self.seed, key.epoch, own])
        image = _transformed(self.dataset.load(key.index), self.transforms, rng)
        return image._replace(sample=replace(image.sample, seed=int(rng.integers(2**63))))


@dataclass(frozen=True)
class _EvaluationReader:
    """Reads one group of images: indices in, one batch for each padded size out."""

    dataset: DenseDataset
    transforms: tuple[Transform, ...]
    size_divisor: int

    def __call__(self, indices: Sequence[int]) -> list[Batch]:
        pairs = []
        for index in indices:
            original = self.dataset.load(index)
            rng = np.random.default_rng([_EVALUATION, index])
            pairs.append((_transformed(original.without_annotation(), self.transforms, rng), original.target()))
        return _batches_by_size(pairs, self.transforms, self.size_divisor)


class _Transformed(NamedTuple):
    """A sample after its transforms, its image not yet normalised if that is left to the device.

    size: of the sample. Its image is smaller where the transforms pad it after `normalize`: `_collate` does that.
    """

    sample: Sample
    size: Size


def _transformed(sample: Sample, transforms: Transforms, rng: np.random.Generator) -> _Transformed:
    before, _, padding = divide(transforms)
    sample = apply_all(before, sample, rng)
    height, width = np.max([sample.image.shape[:2], *(transform.size for transform in padding)], axis=0).tolist()
    return _Transformed(sample, (height, width))


def _batches_by_size(pairs: Iterable[tuple[_Transformed, Target]], transforms: Transforms, divisor: int) -> list[Batch]:
    """One batch for each padded size, so that the other images of a batch never change an image's padding."""
    by_size: dict[Size, list[tuple[_Transformed, Target]]] = {}
    for image, target in pairs:
        by_size.setdefault(_padded_size(image, divisor), []).append((image, target))
    return [
        _collate([image for image, _ in group], [target for _, target in group], size, transforms)
        for size, group in by_size.items()
    ]


def _padded_size(image: _Transformed, divisor: int) -> Size:
    """The sample's size, rounded up to multiples of `divisor`."""
    height, width = (-(-side // divisor) * divisor for side in image.size)
    return height, width


def _collate(images: list[_Transformed], targets: list[Target], size: Size, transforms: Transforms) -> Batch:
    """A batch of images padded to `size`."""
    pixels = [image.sample.image for image in images]
    sizes, (_, normalize, _) = [image.size for image in images], divide(transforms)
    # In the order of the network at once, if nothing is left to do: of a large image every copy counts.
    shape = (len(images), 3, *size) if normalize is None else (len(images), *size, 3)
    stacked = np.zeros(shape, pixels[0].dtype)
    places = stacked.transpose(0, 2, 3, 1) if normalize is None else stacked
    for image, place in zip(pixels, places, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    if normalize is None:
        return Batch(torch.from_numpy(stacked), sizes, targets)
    extents: list[Size] = [(image.shape[0], image.shape[1]) for image in pixels]
    return Batch(torch.from_numpy(stacked), sizes, targets, normalize.left_to_device(extents))
