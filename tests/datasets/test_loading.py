import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.base import DenseDataset, Sample, Survey, Transform
from datasets.colour import Normalize, PhotometricDistortion
from datasets.geometry import pad
from datasets.loading import (
    BatchLayout,
    SampleKey,
    TrainingOrder,
    evaluation_loader,
    micro_batch_keys,
    next_batches,
    single_batch,
    training_loader,
)
from datasets.transforms import Pad, RandomCrop, RandomFlip, ResizeFit, apply_all
from errors import UserError
from structures import IGNORE, Batch, DatasetInfo, Target

TRAIN: tuple[Transform, ...] = (RandomCrop(size=(8, 8)), RandomFlip(), PhotometricDistortion(), Normalize())
TEST: tuple[Transform, ...] = (ResizeFit(long=40, short=14), Normalize())


class Images(DenseDataset):
    """`count` images of a few sizes; image `bad` is unusable, reading image `fatal` kills its process."""

    info = DatasetInfo("semantic", "images", ("a", "b", "c"))

    def __init__(self, count: int, bad: int = -1, fatal: int = -1) -> None:
        self.count, self.bad, self.fatal = count, bad, fatal

    def __len__(self) -> int:
        return self.count

    def image_id(self, index: int) -> str:
        return str(index)

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        return Survey("images", {"all": self.count})

    def files(self, index: int) -> tuple[Path, ...]:
        return (Path(str(index)),)

    def load(self, index: int) -> Sample:
        if index == self.bad:
            raise UserError("bad.jpg", "is truncated", "replace it")
        if index == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(index)
        height, width = [(10, 20), (20, 10), (12, 30)][index % 3]
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = rng.integers(IGNORE, 3, (height, width)).astype(np.int16)
        return Sample(str(index), (height, width), image, semantic=labels)

    def target(self, index: int) -> Target:
        return self.load(index).target()


def ids(batches: list[Batch]) -> list[str]:
    return [target.image_id for batch in batches for target in batch.targets]


def semantic(target: Target) -> torch.Tensor:
    assert target.semantic is not None
    return target.semantic


def assert_equal(ours: list[Batch], others: list[Batch]) -> None:
    assert ids(ours) == ids(others)
    for one, other in zip(ours, others, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.sizes == other.sizes
        assert all(torch.equal(semantic(a), semantic(b)) for a, b in zip(one.targets, other.targets, strict=True))


# --- order -----------------------------------------------------------------------------------------------------------


def steps(length: int, layout: tuple[int, int, int], first: int, count: int) -> list[list[SampleKey]]:
    """The keys of `count` optimiser steps, over all processes, in the order of the stream."""
    size, accumulation, processes = layout
    streams = [
        micro_batch_keys(TrainingOrder(length, seed=3), BatchLayout(size, accumulation, processes, process), first)
        for process in range(processes)
    ]
    return [[key for _ in range(accumulation) for stream in streams for key in next(stream)] for _ in range(count)]


@pytest.mark.parametrize("length", [1, 5, 7, 12])
@pytest.mark.parametrize("layout", [(1, 1, 1), (3, 1, 2), (2, 2, 3), (1, 2, 2), (4, 1, 1), (2, 1, 3)])
def test_every_epoch_has_every_image_once(length: int, layout: tuple[int, int, int]) -> None:
    total = layout[0] * layout[1] * layout[2]
    keys = [key for step in steps(length, layout, 0, -(-5 * length // total)) for key in step]
    for epoch in range(5):
        assert sorted(key.index for key in keys[epoch * length : (epoch + 1) * length]) == list(range(length))
        assert {key.epoch for key in keys[epoch * length : (epoch + 1) * length]} == {epoch}


@pytest.mark.parametrize("layout", [(6, 2, 1), (3, 2, 2), (4, 1, 3), (2, 2, 3), (1, 4, 3)])
def test_a_step_has_the_same_samples_however_it_is_spread(layout: tuple[int, int, int]) -> None:
    assert steps(7, layout, 0, 6) == steps(7, (12, 1, 1), 0, 6)


def test_starting_at_a_step_equals_continuing_to_it() -> None:
    assert steps(7, (2, 2, 2), 1000, 5) == steps(7, (2, 2, 2), 998, 7)[2:]


def test_a_late_start_costs_no_replay() -> None:
    start = time.perf_counter()
    steps(100, (2, 1, 1), 10**12, 1)
    assert time.perf_counter() - start < 0.1


def test_epochs_and_seeds_differ() -> None:
    orders = [[TrainingOrder(50, seed)[epoch * 50 + i].index for i in range(50)] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


# --- training --------------------------------------------------------------------------------------------------------


THREE = BatchLayout(per_process=3)


def train(count: int, *, layout: BatchLayout = THREE, first: int = 0, workers: int = 0) -> list[Batch]:
    loader = training_loader(
        Images(7), TRAIN, seed=5, layout=layout, size_divisor=16, first_step=first, workers=workers
    )
    return [batch.to("cpu") for batch in islice(loader, count)]


def test_batches_are_padded_to_the_divisor() -> None:
    batch = train(1)[0]
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    assert batch.sizes == [(8, 8)] * 3
    for image, target in zip(batch.images, batch.targets, strict=True):
        assert (image[:, 8:] == 0).all()
        assert (image[:, :, 8:] == 0).all()
        assert semantic(target).shape == (16, 16)
        assert semantic(target).dtype == torch.int16
        assert (semantic(target)[8:] == IGNORE).all()
        assert target.size in ((10, 20), (20, 10), (12, 30))


def test_workers_change_nothing() -> None:
    assert_equal(train(8, workers=2), train(8))


def test_resuming_changes_nothing() -> None:
    assert_equal(train(5, first=40, workers=1), train(45)[40:])


def test_processes_and_accumulation_change_nothing() -> None:
    whole = train(4, layout=BatchLayout(4))
    parts = [train(8, layout=BatchLayout(1, 2, 2, process)) for process in (0, 1)]
    spread = [part[step * 2 + round_] for step in range(4) for round_ in range(2) for part in parts]
    assert ids(spread) == ids(whole)
    assert torch.equal(torch.cat([batch.images for batch in spread]), torch.cat([batch.images for batch in whole]))


CROP, FLIP, PAD, NORMALIZE = RandomCrop(size=(8, 12)), RandomFlip(), Pad(size=(11, 13)), Normalize(mean=(9, 8, 7.7))
LEFT_TO_DEVICE = [
    (CROP, PhotometricDistortion(), NORMALIZE),
    (CROP, NORMALIZE, PAD),
    (NORMALIZE, FLIP, CROP, PAD, Pad(size=(20, 3))),
    (Pad(size=(40, 9), fill=128), NORMALIZE),
]
DONE_BY_WORKER = [
    (NORMALIZE, ResizeFit(long=14, short=9)),  # interpolated after it
    (NORMALIZE, PAD, FLIP),  # the padding is no longer at the bottom and the right
    (CROP, NORMALIZE, Pad(size=(16, 16), fill=0.5)),
]


@pytest.mark.parametrize("transforms", [*LEFT_TO_DEVICE, *DONE_BY_WORKER])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_are_those_of_transforms_one_after_the_other_to_the_bit(transforms, memory_format) -> None:
    loader = training_loader(Images(7), transforms, seed=5, layout=THREE, size_divisor=16)
    order = TrainingOrder(7, 5)
    for start in range(0, 21, 3):
        samples = []
        for position in range(start, start + 3):
            key = order[position]
            rng = np.random.default_rng([1, 5, key.epoch, key.index])
            samples.append(apply_all(transforms, Images(7).load(key.index), rng))
        sizes = [sample.image.shape[:2] for sample in samples]
        height, width = (-(-max(sides) // 16) * 16 for sides in zip(*sizes, strict=True))
        padded = [pad(sample, (height, width)) for sample in samples]
        sent = next(loader)
        assert sent.images.dtype == (torch.uint8 if transforms in LEFT_TO_DEVICE else torch.float32)
        batch = sent.to("cpu", memory_format)
        assert batch.images.is_contiguous(memory_format=memory_format)
        assert batch.images.numpy().tobytes() == np.stack([s.image.transpose(2, 0, 1) for s in padded]).tobytes()
        assert batch.sizes == sizes
        assert all(
            torch.equal(semantic(target), semantic(sample.target()))
            for target, sample in zip(batch.targets, padded, strict=True)
        )


def test_evaluated_images_are_those_of_transforms_one_after_the_other_to_the_bit() -> None:
    for batch in evaluate(3):
        for image, target, size in zip(batch.images, batch.targets, batch.sizes, strict=True):
            sample = apply_all(TEST, Images(8).load(int(target.image_id)), np.random.default_rng())
            assert size == sample.image.shape[:2]
            padded = pad(sample, (image.shape[1], image.shape[2]))
            assert image.numpy().tobytes() == padded.image.transpose(2, 0, 1).tobytes()


def test_an_image_looks_different_in_every_epoch() -> None:
    first, second = ({b.targets[0].image_id: b.images for b in part} for part in _epochs())
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)


def _epochs() -> tuple[list[Batch], list[Batch]]:
    batches = train(14, layout=BatchLayout(1))
    return batches[:7], batches[7:]


def test_global_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    train(1)
    assert torch.equal(torch.get_rng_state(), before)


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(10))
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_shards_hold_every_image_once(count: int, processes: int, batch_size: int) -> None:
    seen: Counter[str] = Counter()
    for process in range(processes):
        loader = evaluation_loader(
            Images(count), TEST, batch_size=batch_size, size_divisor=8, rank=process, world_size=processes
        )
        batches = list(loader)
        assert all(len(batch.targets) == len(batch.images) == len(batch.sizes) <= batch_size for batch in batches)
        seen.update(ids(batches))
    assert seen == Counter(str(index) for index in range(count))


def evaluate(batch_size: int, workers: int = 0, transforms: tuple[Transform, ...] = TEST) -> list[Batch]:
    loader = evaluation_loader(Images(8), transforms, batch_size=batch_size, size_divisor=8, workers=workers)
    return [batch.to("cpu") for batch in loader]


def test_padding_does_not_depend_on_the_batch_size() -> None:
    single = {batch.targets[0].image_id: batch.images[0] for batch in evaluate(1)}
    for batch_size in (2, 3, 8):
        for batch in evaluate(batch_size):
            for image, target in zip(batch.images, batch.targets, strict=True):
                assert torch.equal(image, single[target.image_id])


def test_targets_stay_at_original_size() -> None:
    for batch in evaluate(3):
        for target, size in zip(batch.targets, batch.sizes, strict=True):
            assert torch.equal(semantic(target), semantic(Images(8).target(int(target.image_id))))
            assert size != target.size


def test_a_single_image_looks_as_in_the_loader() -> None:
    assert_equal([single_batch(Images(1).load(0), TEST, 8).to("cpu")], evaluate(1)[:1])


def test_evaluation_workers_change_nothing() -> None:
    assert_equal(evaluate(3, workers=2), evaluate(3))


def test_an_evaluation_loader_can_be_used_again() -> None:
    loader = evaluation_loader(Images(4), TEST, batch_size=2, size_divisor=8)
    assert_equal(list(loader), list(loader))


def test_a_process_without_images_needs_no_workers() -> None:
    loader = evaluation_loader(Images(1), TEST, batch_size=2, size_divisor=8, rank=1, world_size=2, workers=2)
    assert list(loader) == []


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_out_of_workers_as_one_line(workers: int) -> None:
    loader = evaluation_loader(Images(6, bad=4), TEST, batch_size=1, size_divisor=8, workers=workers)
    seen = []
    with pytest.raises(UserError) as error:
        seen.extend(loader)
    assert str(error.value) == "bad.jpg: is truncated; replace it"
    assert ids(seen) == ["0", "1", "2", "3"]


def test_next_batches_returns_the_problem() -> None:
    batches = training_loader(Images(3, bad=1), TRAIN, seed=0, layout=BatchLayout(3), size_divisor=8)
    found, problem = next_batches(batches, 2)
    assert found == []
    assert str(problem).startswith("bad.jpg")
    found, problem = next_batches(training_loader(Images(3), TRAIN, seed=0, layout=BatchLayout(3), size_divisor=8), 2)
    assert len(found) == 2
    assert problem is None


def test_a_killed_worker_is_named() -> None:
    loader = evaluation_loader(Images(6, fatal=3), TEST, batch_size=1, size_divisor=8, workers=1)
    with pytest.raises(UserError, match=r"data loading: a worker process died .*memory.*system.workers") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_defects_keep_their_type() -> None:
    class Broken(Images):
        def load(self, index: int) -> Sample:
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        list(evaluation_loader(Broken(1), TEST, batch_size=1, size_divisor=8, workers=1))
    gc.collect()  # PyTorch's trace refers to itself, and with it to the worker


def test_stop_signals_do_not_reach_workers() -> None:
    class Interrupting(Images):
        def load(self, index: int) -> Sample:
            os.kill(os.getpid(), signal.SIGINT)
            assert os.getpgid(0) == os.getpid()
            return super().load(index)

    loader = evaluation_loader(Interrupting(3), TEST, batch_size=1, size_divisor=8, workers=1)
    assert ids(list(loader)) == ["0", "1", "2"]
