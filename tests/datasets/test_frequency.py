"""Frequencies of classes and repeat-factor sampling, by hand and by counting."""

from pathlib import Path

import numpy as np
import pytest

from datasets.frequency import Occurrences, class_frequencies, class_repeats, draw, epoch_length, repeat_factors
from datasets.loading import BatchLayout, TrainingOrder, training_loader
from datasets.scenes import SCENE_CLASSES
from datasets.semantic.ade20k import ADE20KConfig
from experiment import load_experiment
from tests.conftest import ROOT
from tests.datasets.test_loading import TRAIN, Images

# Four images: class 0 in all, class 1 (two entries) in image 2, class 3 nowhere, class 2 in images 1 and 2.
EXAMPLE = Occurrences(
    *np.array([[0, 0, 6], [1, 0, 4], [2, 0, 1], [3, 0, 5], [2, 1, 2], [2, 1, 3], [1, 2, 4], [2, 2, 2]]).T
)


def test_frequencies_by_hand() -> None:
    found = class_frequencies(EXAMPLE, 4)
    assert found.of_all == pytest.approx((16 / 27, 5 / 27, 6 / 27, 0))
    assert found.where_present == pytest.approx((16 / 27, 5 / 8, 6 / 16, 0))


def test_repeat_factors_by_hand() -> None:
    factors = {
        threshold: repeat_factors(EXAMPLE, 4, class_repeats(EXAMPLE, 4, 4, threshold)).tolist()
        for threshold in (0.5, 1.0, 0.01)
    }
    assert factors[0.5] == pytest.approx([1, 1, 2**0.5, 1])
    assert factors[1.0] == pytest.approx([1, 2**0.5, 2, 1])
    assert factors[0.01] == [1] * 4
    assert class_repeats(EXAMPLE, 4, 4, 1.0)[3] == 1  # a class that is in no image


FACTORS = np.array([1.0, 1.3, 2.6, 1.0, 4.0, 1.75])  # their sum is 11.65


def test_an_epoch_has_each_image_as_often_as_its_factor_says() -> None:
    draws = [draw(FACTORS, np.random.default_rng(seed)) for seed in range(1000)]
    counts = np.stack([np.bincount(images, minlength=6) for images, _ in draws])
    assert epoch_length(FACTORS) == 12
    assert (counts.sum(1) == 12).all()
    scaled = FACTORS * 12 / 11.65
    assert (np.abs(counts - scaled) < 1).all()
    assert counts.mean(0) == pytest.approx(scaled, abs=0.05)
    for images, copies in draws[:20]:
        assert sorted(zip(images, copies, strict=True)) == [
            (i, c) for i in range(6) for c in range((images == i).sum())
        ]


def test_groups_and_late_starts_work_with_repeated_images() -> None:
    groups = np.array([0, 1, 0, 1, 0, 1])
    order = TrainingOrder(6, 3, groups, 2, FACTORS)
    keys = [order[position] for position in range(60)]
    pairs = [tuple(groups[key.index] for key in keys[start : start + 2]) for start in range(0, 60, 2)]
    assert sum(left == right for left, right in pairs) > 20
    assert [TrainingOrder(6, 3, groups, 2, FACTORS)[position] for position in (59, 17)] == [keys[59], keys[17]]
    assert len(set(keys)) == 60


def test_copies_of_an_image_are_augmented_differently() -> None:
    class Repeated(Images):
        def repeat_factors(self) -> np.ndarray:
            return np.full(len(self), 3.0)

    batches = training_loader(Repeated(1), TRAIN, seed=0, layout=BatchLayout(3), size_divisor=1)
    images = next(iter(batches)).images
    assert not any((images[a] == images[b]).all() for a, b in ((0, 1), (0, 2), (1, 2)))


TRANSFORMS = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}


def test_label_maps_are_counted(scenes: Path) -> None:
    root = scenes / "ADEChallengeData2016"
    data = ADE20KConfig.model_validate({"root": root, "classes": SCENE_CLASSES, **TRANSFORMS}).build("train")
    images, labels, amounts = data.occurrences()
    semantic = data.load(4).semantic
    assert semantic is not None
    assert dict(zip(labels[images == 4], amounts[images == 4], strict=True)) == {
        label: (semantic == label).sum() for label in np.unique(semantic) if label >= 0
    }
    assert sum(data.frequencies().of_all) == pytest.approx(1)
    assert data.info.frequencies is not None


@pytest.mark.parametrize("demo", ["det", "pan"])
def test_objects_that_are_learnt_are_counted(demo: str, scenes: Path) -> None:
    setting = [f"data.root={scenes}/coco", "data.train_empty_images=true", "data.repeat_threshold=1"]
    data = load_experiment(ROOT / f"configs/small/{demo}.yaml", setting).data.build("train")
    images, labels, _ = data.occurrences()
    for index in range(len(data)):
        sample = data.load(index)
        assert sample.objects is not None
        expected = sorted(sample.objects.labels[~sample.objects.crowd].tolist())
        own = sorted(labels[images == index].tolist())
        if sample.semantic is not None:
            things = np.array(data.info.things)
            stuff = [label for label in np.unique(sample.semantic) if label >= 0 and not things[label]]
            expected = sorted([*expected, *stuff])
        assert own == expected
    factors = data.repeat_factors()
    assert factors is not None
    assert factors.max() > 1
