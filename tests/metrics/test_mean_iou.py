from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from pydantic import TypeAdapter

from errors import UserError
from metrics import MetricConfig
from metrics.boundary import boundary_band, boundary_width
from metrics.distributed import sum_over_processes
from metrics.mean_iou import MeanIoU, MeanIoUConfig
from structures import IGNORE, DatasetInfo, Prediction, Target

X = IGNORE


def scored(labels: object, predicted: object, classes: int = 3, ratio: float | None = None) -> MeanIoU:
    metric = MeanIoU(tuple("abcdefgh"[:classes]), ratio)
    add(metric, labels, predicted)
    return metric


def add(metric: MeanIoU, labels: object, predicted: object) -> None:
    true = torch.as_tensor(labels, dtype=torch.int16)
    metric.update(
        [Prediction(semantic=torch.as_tensor(predicted, dtype=torch.int16))],
        [Target("a", (true.shape[0], true.shape[1]), semantic=true)],
    )


# --- mIoU ------------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    metric = scored([[0, 0, 0, 0], [1, 1, 2, X]], [[0, 0, 0, 1], [1, 2, 2, 0]])
    numbers = metric.compute()
    # class: labelled, predicted, both. a: 4, 3, 3; b: 2, 2, 1; c: 1, 2, 1
    assert numbers["mIoU"] == pytest.approx(100 * (3 / 4 + 1 / 3 + 1 / 2) / 3)
    assert numbers["mAcc"] == pytest.approx(100 * (3 / 4 + 1 / 2 + 1) / 3)
    assert numbers["aAcc"] == pytest.approx(100 * 5 / 7)
    assert "bIoU" not in numbers
    record = metric.per_class()[1]
    assert record == {"class": "b", "IoU": pytest.approx(100 / 3), "Acc": pytest.approx(50), "pixels": 2}


def test_sums_run_over_the_data_set() -> None:
    metric = scored([[0, 0, 0, 1]], [[0, 0, 0, 0]], classes=2)
    add(metric, [[1, 1]], [[1, 1]])
    assert metric.compute()["mIoU"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)


def test_classes_that_do_not_occur_are_left_out() -> None:
    metric = scored([[0, 0], [1, 1]], [[0, 0], [1, 1]])
    assert metric.compute()["mIoU"] == 100
    assert metric.per_class()[2] == {"class": "c", "IoU": None, "Acc": None, "pixels": 0}


def test_a_class_that_is_only_predicted_counts_for_miou_and_not_for_macc() -> None:
    numbers = scored([[0, 0]], [[0, 2]]).compute()
    assert numbers["mIoU"] == pytest.approx(100 * (1 / 2 + 0) / 2)
    assert numbers["mAcc"] == pytest.approx(50)


def test_predictions_on_ignored_pixels_change_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (20, 20))
    predicted = rng.integers(0, 3, (20, 20))
    other = np.where(labels == X, (predicted + 1) % 3, predicted)
    first, second = (scored(labels, values, ratio=0.05) for values in (predicted, other))
    assert first.compute() == second.compute()
    assert first.per_class() == second.per_class()


def test_perfect_predictions_score_100() -> None:
    labels = np.random.default_rng(0).integers(-1, 3, (30, 20))
    assert set(scored(labels, np.maximum(labels, 0), ratio=0.02).compute().values()) == {100}


def test_without_any_label_there_is_no_number() -> None:
    with pytest.raises(UserError, match="no pixel has a label"):
        scored([[X, X]], [[0, 1]]).compute()


# --- boundary IoU ----------------------------------------------------------------------------------------------------


def literal_band(mask: np.ndarray, width: int) -> np.ndarray:
    """The published definition: the mask minus its erosion, with the outside of the image as background."""
    bordered = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(bordered, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def literal_biou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, ratio: float) -> list[float | None]:
    result: list[float | None] = []
    for label in range(classes):
        both = either = 0
        for labels, predicted in pairs:
            width = max(1, round(ratio * np.sqrt(labels.shape[0] ** 2 + labels.shape[1] ** 2)))
            true = literal_band(labels == label, width)
            guess = literal_band((predicted == label) & (labels != X), width)
            both += int((true & guess).sum())
            either += int((true | guess).sum())
        result.append(100 * both / either if either else None)
    return result


def blobs(seed: int, height: int, width: int, classes: int, ignored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coarse random regions, and a prediction that is wrong here and there, also where nothing is labelled."""
    rng = np.random.default_rng(seed)

    def coarse(low: int) -> np.ndarray:
        small = rng.integers(low, classes, (4, 5)).astype(np.int16)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)

    labels = coarse(-1 if ignored else 0)
    predicted = np.where(rng.random((height, width)) < 0.05, coarse(0), np.roll(np.maximum(labels, 0), 2, axis=1))
    return labels, predicted.astype(np.int16)


@pytest.mark.parametrize("ratio", [0.02, 0.07, 0.3])
@pytest.mark.parametrize("ignored", [False, True])
def test_biou_equals_the_literal_definition(ratio: float, ignored: bool) -> None:
    sizes = [(40, 60), (33, 17), (5, 80), (64, 64)]
    pairs = [blobs(seed, *size, classes=5, ignored=ignored) for seed, size in enumerate(sizes)]
    metric = MeanIoU(tuple("abcde"), ratio)
    for labels, predicted in pairs:
        add(metric, labels, predicted)
    expected = literal_biou(pairs, 5, ratio)
    assert [record["bIoU"] for record in metric.per_class()] == pytest.approx(expected)
    assert metric.compute()["bIoU"] == pytest.approx(np.mean([value for value in expected if value is not None]))
    assert 0 < metric.compute()["bIoU"] < 100


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_bands_equal_literal_ones_class_by_class(width: int) -> None:
    labels, _ = blobs(0, 50, 37, 4, ignored=True)
    band = boundary_band(labels, width)
    for label in range(4):
        assert np.array_equal(band == label, literal_band(labels == label, width))


def test_image_border_is_boundary() -> None:
    band = boundary_band(np.zeros((9, 9), np.int16), 2)
    assert (band == 0).sum() == 9 * 9 - 5 * 5


@pytest.mark.parametrize(("size", "width"), [((512, 683), 17), ((10, 10), 1), ((480, 640), 16), ((3, 4), 1)])
def test_band_width_follows_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert boundary_width(size, 0.02) == width


# --- config and processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["mean_iou", {"name": "mean_iou"}])
def test_a_word_is_enough_in_the_yaml(entry: object) -> None:
    config = TypeAdapter(MetricConfig).validate_python(entry)
    metric = config.build(DatasetInfo("semantic", "x", ("a", "b")))
    assert metric.primary == "mIoU"
    assert metric.protocol["boundary_ratio"] == 0.02


@pytest.mark.parametrize("info", [DatasetInfo("depth", "nyu", max_depth=10), DatasetInfo("detection", "coco", ("a",))])
def test_data_of_another_task_are_refused(info: DatasetInfo) -> None:
    with pytest.raises(UserError, match=f"{info.name} is {info.task} data"):
        MeanIoUConfig().build(info)


def test_without_processes_gathering_changes_nothing() -> None:
    metric = scored([[0, 1]], [[0, 0]], ratio=0.1)
    before = metric.compute()
    metric.gather()
    assert metric.compute() == before


def pairs_of(process: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [blobs(seed, 30, 40, 3, ignored=True) for seed in range(5)][process::2]


def gather_in_process(process: int, folder: str) -> None:
    cv2.setNumThreads(0)  # threads do not survive the fork
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=2)
    metric = MeanIoU(tuple("abc"), 0.05)
    for labels, predicted in pairs_of(process):
        add(metric, labels, predicted)
    metric.gather()
    huge = sum_over_processes(np.array([2**60 + process], np.int64))
    torch.save((metric.compute(), int(huge[0])), f"{folder}/{process}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(gather_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    alone = MeanIoU(tuple("abc"), 0.05)
    for process in (0, 1):
        for labels, predicted in pairs_of(process):
            add(alone, labels, predicted)
    for process in (0, 1):
        assert torch.load(tmp_path / f"{process}.pt") == (alone.compute(), 2**61 + 1)
