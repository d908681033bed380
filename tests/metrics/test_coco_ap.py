import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from pydantic import TypeAdapter

from config import validate
from errors import UserError
from metrics import MetricConfig
from metrics.coco_ap import STATS, CocoAP, CocoAPConfig
from metrics.distributed import gather_objects
from structures import DatasetInfo, Instances, Prediction, Target
from tests.metrics.coco_example import CATEGORIES, INFO, Example, random_example

KINDS = ("bbox", "segm")


def percent(values: np.ndarray) -> list[float]:
    return [math.nan if value == -1 else 100 * float(value) for value in values]


def same(left: list[float], right: list[float]) -> bool:
    """Equal to the last digit, NaN being equal to NaN."""
    return np.array_equal(left, right, equal_nan=True)


def scored(predictions: list[Prediction], targets: list[Target], kinds: Any = KINDS) -> CocoAP:
    metric = CocoAP(INFO.classes, kinds)
    metric.update(predictions, targets)
    return metric


# --- against pycocotools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_numbers_equal_pycocotools_to_the_last_digit(seed: int) -> None:
    example = random_example(seed)
    numbers = scored(example.predictions(), example.targets()).compute()
    assert list(numbers) == [f"{kind}/{stat}" for kind in KINDS for stat in STATS]
    for kind in KINDS:
        expected = percent(example.evaluated(kind).stats)
        assert same([numbers[f"{kind}/{stat}"] for stat in STATS], expected)
        assert expected[0] > 1


def class_values(evaluator: COCOeval, label: int) -> tuple[float | None, float | None]:
    """AP and AP50 of a class as pycocotools' users read them from its table."""
    result = []
    for values in (evaluator.eval["precision"][:, :, label, 0, -1], evaluator.eval["precision"][0, :, label, 0, -1]):
        values = values[values > -1]
        result.append(100 * float(np.mean(values)) if values.size else None)
    return result[0], result[1]


def test_values_per_class_equal_pycocotools() -> None:
    example = random_example(10)
    records = scored(example.predictions(), example.targets()).per_class()
    for kind in KINDS:
        evaluator = example.evaluated(kind)
        for label, record in enumerate(records):
            assert (record[f"{kind}/AP"], record[f"{kind}/AP50"]) == class_values(evaluator, label)
    for record, name, category in zip(records, INFO.classes, CATEGORIES, strict=True):
        objects = [item for item in example.annotations["annotations"] if item["category_id"] == category]
        assert record["class"] == name
        assert record["objects"] == sum(not item["iscrowd"] for item in objects)
    assert [record["segm/AP"] is None for record in records] == [False, False, True, False, True]
    assert records[3]["segm/AP"] == 0  # objects without detections


def test_the_example_has_the_hard_cases() -> None:
    example = random_example(0)
    objects, results = example.annotations["annotations"], example.results
    scores = [record["score"] for record in results]
    assert sum(item["iscrowd"] for item in objects) > 3
    assert len(set(scores)) < len(scores) / 2
    assert {32**2, 96**2} < {item["area"] for item in objects}
    assert {image["id"] for image in example.annotations["images"]} > {item["image_id"] for item in objects}
    crowded = [record["image_id"] for record in results if record["category_id"] == 2]
    assert max(map(crowded.count, crowded)) > 60
    ious = np.concatenate([values.ravel() for values in example.evaluated("bbox").ious.values() if len(values)])
    assert {0.5, 0.75} < set(ious)


def test_only_the_hundred_best_detections_of_a_class_count() -> None:
    box = {"image_id": 5, "category_id": 2, "bbox": [10.0, 10.0, 20.0, 20.0], "iscrowd": 0, "area": 400, "id": 1}
    rle = coco_mask.encode(np.zeros((50, 50), np.uint8, order="F"))
    segmentation = {"size": [50, 50], "counts": rle["counts"].decode()}
    box["segmentation"] = segmentation
    worse = [{**box, "bbox": [30.0, 30.0, 5.0, 5.0], "score": 0.9} for _ in range(100)]
    image = {"id": 5, "height": 50, "width": 50}
    categories = [{"id": number} for number in CATEGORIES]
    for before, expected in ((99, 1.0), (100, 0.0)):
        example = Example(
            {"images": [image], "annotations": [box], "categories": categories},
            [*worse[:before], {**box, "score": 0.5}],
        )
        numbers = scored(example.predictions(), example.targets(), ("bbox",)).compute()
        assert numbers["bbox/AR100"] == pytest.approx(100 * expected)
        assert same(list(numbers.values()), percent(example.evaluated("bbox").stats))


# --- by hand ---------------------------------------------------------------------------------------------------------


def one_box(boxes: list[list[float]], scores: list[float] | None = None, labels: list[int] | None = None) -> Instances:
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
        scores=None if scores is None else torch.tensor(scores),
    )


def test_by_hand() -> None:
    # Two objects of 10 x 10. The best detection has IoU 8 / 10 with the first, the next hits nothing, the second is
    # missed. At IoU up to 0.80 (seven thresholds) precision is 1 up to recall 0.5 (51 of 101 points), then 0.
    truth = one_box([[0, 0, 10, 10], [50, 50, 60, 60]])
    found = one_box([[0, 0, 10, 8], [30, 0, 40, 10]], [0.9, 0.8])
    metric = scored([Prediction(instances=found)], [Target("1", (100, 100), instances=truth)], ("bbox",))
    numbers = metric.compute()
    assert numbers["bbox/AP50"] == pytest.approx(100 * 51 / 101)
    assert numbers["bbox/AP"] == pytest.approx(100 * 51 / 101 * 7 / 10)
    assert numbers["bbox/AR1"] == pytest.approx(100 * 0.5 * 7 / 10)
    assert numbers["bbox/APs"] == numbers["bbox/AP"]
    assert math.isnan(numbers["bbox/APm"])
    assert math.isnan(numbers["bbox/ARl"])
    assert metric.per_class()[0]["objects"] == 2
    assert metric.per_class()[1] == {"class": "bee", "bbox/AP": None, "bbox/AP50": None, "objects": 0}


def test_boxes_without_decimals_from_a_file_are_taken_from_corners() -> None:
    truth = one_box([[0, 0, 10, 10]])
    targets = [Target("1", (100, 100), instances=truth)]
    plain = scored([Prediction(instances=one_box([[0, 0, 10, 8]], [0.9]))], targets, ("bbox",))
    given = one_box([[0, 0, 1, 1]], [0.9])
    given.xywh = torch.tensor([[0, 0, 10, 8]], dtype=torch.float64)
    assert same(
        list(plain.compute().values()),
        list(scored([Prediction(instances=given)], targets, ("bbox",)).compute().values()),
    )


def test_crowds_are_neither_found_nor_missed() -> None:
    truth = one_box([[0, 0, 10, 10], [20, 20, 90, 90]])
    truth.crowd = torch.tensor([False, True])
    found = one_box([[30, 30, 40, 40], [0, 0, 10, 10]], [0.9, 0.8])  # the first lies in the crowd
    metric = scored([Prediction(instances=found)], [Target("1", (100, 100), instances=truth)], ("bbox",))
    assert metric.compute()["bbox/AP"] == pytest.approx(100)
    assert metric.per_class()[0]["objects"] == 1


def test_a_data_set_without_detections_scores_zero() -> None:
    targets = [Target("1", (9, 9), instances=one_box([[0, 0, 5, 5]]))]
    numbers = scored([Prediction(instances=one_box([], []))], targets, ("bbox",)).compute()
    assert numbers["bbox/AP"] == numbers["bbox/AR100"] == 0


@pytest.mark.parametrize("crowd", [False, True])
def test_without_any_object_there_is_no_number(crowd: bool) -> None:
    truth = one_box([[0, 0, 5, 5]] if crowd else [])
    truth.crowd = torch.ones(len(truth.boxes), dtype=torch.bool)
    metric = scored(
        [Prediction(instances=one_box([[0, 0, 5, 5]], [0.5]))], [Target("1", (9, 9), instances=truth)], ("bbox",)
    )
    with pytest.raises(UserError, match="no object is annotated"):
        metric.compute()


def test_an_image_counts_once() -> None:
    targets = [Target("1", (9, 9), instances=one_box([[0, 0, 5, 5]]))]
    metric = scored([Prediction(instances=one_box([], []))], targets, ("bbox",))
    with pytest.raises(ValueError, match="image 1 was scored before"):
        metric.update([Prediction(instances=one_box([], []))], targets)


# --- streams and processes -------------------------------------------------------------------------------------------


def test_order_and_batches_change_nothing() -> None:
    example = random_example(3)
    predictions, targets = example.predictions(), example.targets()
    together = scored(predictions, targets)
    apart = CocoAP(INFO.classes, KINDS)
    for index in np.random.default_rng(0).permutation(len(targets)):
        apart.update([predictions[index]], [targets[index]])
    assert same(list(apart.compute().values()), list(together.compute().values()))
    assert apart.per_class() == together.per_class()


def test_numbers_follow_further_updates() -> None:
    example = random_example(3)
    predictions, targets = example.predictions(), example.targets()
    metric = scored(predictions[:7], targets[:7])
    metric.compute()
    metric.update(predictions[7:], targets[7:])
    assert same(list(metric.compute().values()), list(scored(predictions, targets).compute().values()))


def gather_in_process(process: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=processes)
    example = random_example(4)
    metric = scored(example.predictions()[process::processes], example.targets()[process::processes])
    metric.gather()
    ranks = gather_objects(process)
    torch.save((metric.compute(), metric.per_class(), ranks), f"{folder}/{process}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_agree_with_one(tmp_path: Path, processes: int) -> None:
    arguments = (processes, str(tmp_path))
    torch.multiprocessing.start_processes(gather_in_process, arguments, nprocs=processes, start_method="fork")
    example = random_example(4)
    alone = scored(example.predictions(), example.targets())
    alone.gather()
    for process in range(processes):
        numbers, records, ranks = torch.load(tmp_path / f"{process}.pt")
        assert same(list(numbers.values()), list(alone.compute().values()))
        assert records == alone.per_class()
        assert ranks == list(range(processes))


def gather_twice_the_same(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=2)
    example = random_example(4)
    with pytest.raises(ValueError, match="two processes scored the same image"):
        scored(example.predictions(), example.targets()).gather()
    Path(folder, str(process)).touch()
    dist.destroy_process_group()


def test_an_image_in_two_processes_is_refused(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(gather_twice_the_same, (str(tmp_path),), nprocs=2, start_method="fork")
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kinds", "built"),
    [
        ("detection", None, ("bbox",)),
        ("instance", None, ("bbox", "segm")),
        ("instance", ["segm"], ("segm",)),
        ("instance", ["segm", "bbox"], ("bbox", "segm")),
    ],
)
def test_kinds_follow_the_task(task: str, kinds: list[str] | None, built: tuple[str, ...]) -> None:
    config = validate(CocoAPConfig, {"kinds": kinds}, "metrics")
    metric = config.build(DatasetInfo(task, "x", ("a", "b")))
    assert metric.names == tuple(f"{kind}/{stat}" for kind in built for stat in STATS)
    assert metric.primary == f"{built[-1]}/AP"  # masks before boxes
    assert ("segm" in metric.protocol) == ("segm" in built)


@pytest.mark.parametrize(
    ("task", "kinds", "message"),
    [
        ("detection", ("segm",), r"metrics\.coco_ap\.kinds: segm is not possible, since x is detection data; use bbox"),
        ("semantic", None, r"metrics\.coco_ap: x is semantic data, which has no separate objects; choose"),
    ],
)
def test_impossible_kinds_are_refused(task: str, kinds: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CocoAPConfig(kinds=kinds).build(DatasetInfo(task, "x", ("a",)))


@pytest.mark.parametrize("entry", ["coco_ap", {"name": "coco_ap"}, {"name": "coco_ap", "kinds": ["bbox"]}])
def test_a_word_is_enough_in_the_yaml(entry: object) -> None:
    assert isinstance(TypeAdapter(MetricConfig).validate_python(entry), CocoAPConfig)
