import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datasets.coco.masks import Outlines
from datasets.files.folders import Names
from datasets.loading import TrainingOrder, evaluation_loader
from tests.datasets.coco.coco_layout import SIZES, config, plain, write_layout


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def test_groups_tell_wide_images(layout: Path) -> None:
    dataset = config(layout, train_empty_images=True).build("train")
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [0, 0, 1, 1, 1]
    assert dataset.group_size == 2
    assert config(layout, aspect_grouping=None).build("train").groups is None


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("length", [40, 41, 43])
def test_consecutive_images_have_one_shape(size: int, length: int) -> None:
    groups = (np.arange(length) % 3 > 0).astype(np.int64)
    order = TrainingOrder(length, 1, groups, size)
    indices = np.array([order[position].index for position in range(12 * length)])
    for epoch in indices.reshape(12, length):
        assert sorted(epoch) == list(range(length))
    blocks = groups[indices[: len(indices) // size * size]].reshape(-1, size)
    mixed = (blocks != blocks[:, :1]).any(axis=1).sum()
    assert mixed <= 12 * (1 if size == 2 else 2)  # of 120 to 250 blocks: what is left over at the ends of an epoch


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_image_is_evaluated_once(layout: Path, processes: int) -> None:
    settings = config(layout, masks=True)
    dataset, seen = settings.build("val"), Counter[str]()
    for process in range(processes):
        loader = evaluation_loader(
            dataset,
            settings.test_transforms,
            batch_size=2,
            size_divisor=32,
            rank=process,
            world_size=processes,
            workers=process % 2,
        )
        for batch in loader:
            for target in batch.targets:
                seen[target.image_id] += 1
                index = sorted(SIZES).index(int(target.image_id))
                assert plain(target) == plain(dataset.target(index))
    assert seen == Counter(str(key) for key in SIZES)


def test_a_few_arrays_hold_everything(layout: Path) -> None:
    dataset = config(layout, masks=True).build("train")
    assert dataset._annotations.others == ()
    values = [*vars(dataset._annotations).values(), *vars(dataset._annotations.outlines).values()]
    assert all(isinstance(value, np.ndarray | Names | tuple | Outlines) for value in values)
    assert not dataset.skipped
    held = [value for value in vars(dataset).values() if isinstance(value, list | tuple | dict | set)]
    assert not any(held)
    assert pickle.loads(pickle.dumps(dataset)).load(0).image_id == "5"
