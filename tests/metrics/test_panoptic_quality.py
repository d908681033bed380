import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from pydantic import TypeAdapter

from errors import UserError
from metrics import MetricConfig, panoptic_quality
from metrics.panoptic_quality import PanopticQuality, PanopticQualityConfig
from structures import DatasetInfo, Panoptic, Prediction, Target

CLASSES = ("ant", "bee", "sky", "sea")
THINGS = (True, True, False, False)
ANT, BEE, SKY, SEA = range(4)
NAMES = ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")


def panoptic(rows: str, labels: dict[int, int], crowd: tuple[int, ...] = ()) -> Panoptic:
    """A map from rows of digits: its ids, "." being void."""
    ids = torch.tensor([[int(digit) for digit in row.replace(".", "0")] for row in rows.split()], dtype=torch.int32)
    return Panoptic(ids, labels, {segment: segment in crowd for segment in labels})


def scored(*pairs: tuple[Panoptic, Panoptic], things: tuple[bool, ...] = THINGS) -> PanopticQuality:
    """The metric after images, each a pair of truth and prediction."""
    metric = PanopticQuality(CLASSES, things)
    for number, (true, found) in enumerate(pairs):
        metric.update([Prediction(panoptic=found)], [target(str(number), true)])
    return metric


def target(name: str, true: Panoptic) -> Target:
    return Target(name, (true.ids.shape[0], true.ids.shape[1]), panoptic=true)


def counts(metric: PanopticQuality, label: int) -> tuple[int, int, int]:
    """TP, FP and FN of a class."""
    record = metric.per_class()[label]
    return record["TP"], record["FP"], record["FN"]


def same(left: list[Any], right: list[Any]) -> bool:
    """Equal to the last digit, NaN being equal to NaN."""
    return np.array_equal(left, right, equal_nan=True)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_scores_100_whatever_its_ids() -> None:
    true = panoptic("1122 1133 ..33", {1: ANT, 2: ANT, 3: SKY})
    renamed = panoptic("5577 5599 ..99", {5: ANT, 7: ANT, 9: SKY})
    for found in (true, renamed):
        metric = scored((true, found))
        assert metric.compute() == dict.fromkeys(NAMES, 100.0)
        assert [counts(metric, label) for label in range(4)] == [(2, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0)]


def test_segments_of_another_class_do_not_match() -> None:
    metric = scored((panoptic("1122", {1: ANT, 2: BEE}), panoptic("1122", {1: BEE, 2: ANT})))
    assert counts(metric, ANT) == counts(metric, BEE) == (0, 1, 1)
    assert metric.compute()["PQ"] == metric.compute()["SQ"] == metric.compute()["RQ"] == 0


def test_numbers_by_hand() -> None:
    # ant: one match of IoU 4/5, one missed. bee: a match of 1, one too many. sky: a match of IoU 4/5.
    true = panoptic("11111 2222. 33444 44...", {1: ANT, 2: SKY, 3: BEE, 4: ANT})
    found = panoptic("11112 22222 33555 55555", {1: ANT, 2: SKY, 3: BEE, 5: BEE})
    metric = scored((true, found))
    # Segment 2: all 4 are found, by 5 outside void. Segment 5 meets 4, which is of another class.
    ant, bee, sky = (1, 4 / 5, 1.5), (1, 1, 1.5), (1, 4 / 5, 1)  # matches, their IoU, TP + FP/2 + FN/2
    numbers = metric.compute()
    for stat, values in (
        ("PQ", [iou / weight for _, iou, weight in (ant, bee, sky)]),
        ("SQ", [iou / matches for matches, iou, _ in (ant, bee, sky)]),
        ("RQ", [matches / weight for matches, _, weight in (ant, bee, sky)]),
    ):
        assert numbers[stat] == pytest.approx(100 * sum(values) / 3)
        assert numbers[f"{stat}_th"] == pytest.approx(100 * sum(values[:2]) / 2)
        assert numbers[f"{stat}_st"] == pytest.approx(100 * values[2])
    assert [counts(metric, label) for label in (ANT, BEE, SKY)] == [(1, 0, 1), (1, 1, 0), (1, 0, 0)]
    assert metric.per_class()[ANT] == {
        "class": "ant",
        "thing": True,
        "PQ": pytest.approx(100 * 0.8 / 1.5),
        "SQ": pytest.approx(80),
        "RQ": pytest.approx(100 / 1.5),
        "TP": 1,
        "FP": 0,
        "FN": 1,
    }
    nothing = dict.fromkeys(("PQ", "SQ", "RQ"))
    assert metric.per_class()[SEA] == {"class": "sea", "thing": False, **nothing, "TP": 0, "FP": 0, "FN": 0}


def test_sums_run_over_the_data_set() -> None:
    whole = panoptic("1111", {1: ANT})
    metric = scored((whole, whole), (whole, panoptic("1112", {1: ANT, 2: ANT})), (whole, panoptic("...1", {1: ANT})))
    # Two matches of IoU 1 and 3/4; two predictions too many; one segment missed.
    assert counts(metric, ANT) == (2, 2, 1)
    assert metric.compute()["PQ"] == pytest.approx(100 * 1.75 / 3.5)
    assert metric.compute()["SQ"] == pytest.approx(100 * 1.75 / 2)


def test_of_a_split_segment_the_larger_part_matches() -> None:
    metric = scored((panoptic("11111", {1: ANT}), panoptic("11122", {1: ANT, 2: ANT})))
    assert counts(metric, ANT) == (1, 1, 0)
    assert metric.compute()["SQ"] == pytest.approx(60)


@pytest.mark.parametrize(
    ("true", "found", "matches"), [("1111", "1122", 0), ("11111", "11122", 1), ("12", "11", 0), ("112", "111", 1)]
)
def test_an_iou_of_one_half_is_no_match(true: str, found: str, matches: int) -> None:
    metric = scored((panoptic(true, {1: ANT, 2: BEE}), panoptic(found, {int(digit): ANT for digit in found})))
    assert counts(metric, ANT)[0] == matches


# --- void ------------------------------------------------------------------------------------------------------------


def test_predicted_pixels_on_void_do_not_count_in_the_union() -> None:
    metric = scored((panoptic("11222.......", {1: ANT, 2: BEE}), panoptic("111111111111", {1: BEE})))
    assert counts(metric, BEE) == (1, 0, 0)
    assert metric.compute()["SQ"] == pytest.approx(100 * (3 / 5) / 2)  # the ant has no match


def test_void_in_a_prediction_counts_as_missed_pixels() -> None:
    metric = scored((panoptic("1111", {1: ANT}), panoptic("111.", {1: ANT})))
    assert metric.compute()["SQ"] == pytest.approx(75)
    half = scored((panoptic("1111", {1: ANT}), panoptic("11..", {1: ANT})))
    assert counts(half, ANT) == (0, 1, 1)


@pytest.mark.parametrize(("true", "extra"), [("22..", 1), ("2...", 0), ("222.", 1), ("....", 0)])
def test_a_prediction_mostly_on_void_is_not_too_many(true: str, extra: int) -> None:
    metric = scored(
        (
            panoptic(f"3{true}", {3: SKY} | {int(digit): SKY for digit in true if digit != "."}),
            panoptic("31111", {1: ANT, 3: SKY}),
        )
    )
    assert counts(metric, ANT) == (0, extra, 0)


def test_a_prediction_of_void_alone_misses_everything() -> None:
    metric = scored((panoptic("1123", {1: ANT, 2: ANT, 3: SKY}), panoptic("....", {})))
    assert metric.compute() == dict.fromkeys(NAMES, 0.0)
    assert [counts(metric, label) for label in (ANT, SKY)] == [(0, 0, 2), (0, 0, 1)]


def test_an_image_of_void_alone_changes_nothing() -> None:
    seen = panoptic("1122", {1: ANT, 2: SKY}), panoptic("1112", {1: ANT, 2: SKY})
    empty = panoptic("....", {})
    alone = scored(seen)
    with_empty = scored(seen, (empty, panoptic("1122", {1: ANT, 2: SEA})), (empty, empty))
    assert same(list(with_empty.compute().values()), list(alone.compute().values()))
    assert with_empty.per_class() == alone.per_class()


# --- crowd -----------------------------------------------------------------------------------------------------------


def test_crowds_are_neither_found_nor_missed() -> None:
    true = panoptic("1122", {1: ANT, 2: SKY}, crowd=(1,))
    for found in (panoptic("1122", {1: ANT, 2: SKY}), panoptic("..22", {2: SKY})):
        metric = scored((true, found))
        assert counts(metric, ANT) == (0, 0, 0)
        assert metric.compute()["PQ"] == 100


@pytest.mark.parametrize(("found", "label", "extra"), [
    ("2111", ANT, 0),  # two thirds of it on the crowd
    ("2211", ANT, 1),  # half of it on the crowd, half on the other
    ("2111", BEE, 1),  # of another class than the crowd
])  # fmt: skip
def test_a_prediction_mostly_on_crowd_of_its_class_is_not_too_many(found: str, label: int, extra: int) -> None:
    true = panoptic("2113" if found == "2111" else "2213", {1: ANT, 2: SKY, 3: SEA}, crowd=(1,))
    metric = scored((true, panoptic(found, {1: label, 2: SKY})))
    assert counts(metric, label) == (0, extra, 0)


def test_crowd_and_void_count_together() -> None:
    true = panoptic("33111...", {1: ANT, 3: SKY}, crowd=(1,))
    assert counts(scored((true, panoptic("11111111", {1: ANT}))), ANT) == (0, 0, 0)
    assert counts(scored((true, panoptic("11111111", {1: BEE}))), BEE) == (0, 1, 0)


def test_of_two_crowds_of_a_class_the_one_listed_last_counts() -> None:
    found = panoptic("1112", {1: ANT, 2: SKY})
    first = panoptic("1152", {1: ANT, 2: SKY, 5: ANT}, crowd=(1, 5))
    last = panoptic("1152", {5: ANT, 2: SKY, 1: ANT}, crowd=(1, 5))
    assert counts(scored((first, found)), ANT) == (0, 1, 0)
    assert counts(scored((last, found)), ANT) == (0, 0, 0)


# --- means -----------------------------------------------------------------------------------------------------------


def test_classes_only_in_truth_or_prediction_enter_the_means_with_zero() -> None:
    metric = scored((panoptic("1122", {1: ANT, 2: SKY}), panoptic("1133", {1: ANT, 3: SEA})))
    numbers = metric.compute()
    assert [numbers[name] for name in ("PQ", "SQ", "RQ")] == pytest.approx([100 / 3] * 3)
    assert [numbers[f"{name}_th"] for name in ("PQ", "SQ", "RQ")] == [100] * 3
    assert [numbers[f"{name}_st"] for name in ("PQ", "SQ", "RQ")] == [0] * 3
    assert [record["SQ"] for record in metric.per_class()] == [100, None, 0, 0]


@pytest.mark.parametrize(
    ("things", "group"), [((True,) * 4, "st"), ((False,) * 4, "th"), ((True, True, False, True), "st")]
)
def test_a_group_without_segments_has_no_number(things: tuple[bool, ...], group: str) -> None:
    true = panoptic("1122", {1: ANT, 2: SEA})
    numbers = scored((true, true), things=things).compute()
    assert [name for name in NAMES if math.isnan(numbers[name])] == [f"{stat}_{group}" for stat in ("PQ", "SQ", "RQ")]


@pytest.mark.parametrize("true", [panoptic("....", {}), panoptic("1111", {1: ANT}, crowd=(1,))])
def test_without_any_segment_there_is_no_number(true: Panoptic) -> None:
    with pytest.raises(UserError, match="no segment is annotated"):
        scored((true, panoptic("1111", {1: BEE}))).compute()


# --- bad maps --------------------------------------------------------------------------------------------------------

ONE = panoptic("1122", {1: ANT, 2: SKY})


@pytest.mark.parametrize(
    ("true", "found", "message"),
    [
        (ONE, panoptic("112", {1: ANT, 2: SKY}), r"image 0: predicted ids have shape \(1, 3\), true ids \(1, 4\)"),
        (ONE, panoptic("11 22", {1: ANT, 2: SKY}), r"image 0: predicted ids have shape \(2, 2\), true ids \(1, 4\)"),
        (ONE, panoptic("1123", {1: ANT, 2: SKY}), "image 0: predicted segment 3 has no label"),
        (panoptic("1422", {1: ANT, 2: SKY, 7: SEA}), ONE, "image 0: true segment 4 has no label"),
        (ONE, panoptic("1111", {1: ANT, 2: SKY}), "image 0: predicted segment 2 has a label and no pixel"),
        (ONE, panoptic("1122", {1: ANT, 2: 4}), "image 0: segment 2 has label 4; 0 is void, labels go from 0 to 3"),
        (ONE, panoptic("1122", {1: ANT, 2: -1}), "image 0: segment 2 has label -1"),
        (panoptic("1122", {0: ANT, 1: ANT, 2: ANT}), ONE, "image 0: segment 0 has label 0; 0 is void"),
    ],
)
def test_maps_that_do_not_fit_are_refused(true: Panoptic, found: Panoptic, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored((true, found))


def test_an_id_below_all_known_ones_is_refused() -> None:
    found = Panoptic(torch.tensor([[-5, 1, 2, 2]], dtype=torch.int32), {1: ANT, 2: SKY})
    with pytest.raises(ValueError, match="predicted segment -5 has no label"):
        scored((ONE, found))


def test_a_true_segment_without_pixels_is_missed() -> None:
    metric = scored((panoptic("1122", {1: ANT, 2: SKY, 9: BEE}), ONE))
    assert counts(metric, BEE) == (0, 0, 1)


def test_ids_as_large_as_in_a_file() -> None:
    ids = torch.tensor([[2**24 - 1, 2**24 - 1, 256, 0]], dtype=torch.int32)
    true = Panoptic(ids, {2**24 - 1: ANT, 256: SKY})
    assert scored((true, ONE)).compute()["PQ"] == 100


def test_an_image_counts_once() -> None:
    metric = scored((ONE, ONE))
    with pytest.raises(ValueError, match="image 0 was scored before"):
        metric.update([Prediction(panoptic=ONE)], [target("0", ONE)])


# --- against the definition ------------------------------------------------------------------------------------------


def by_definition(pairs: list[tuple[Panoptic, Panoptic]]) -> tuple[list[list[float]], list[list[int]]]:
    """IoUs of the matches, and [TP, FP, FN], of each class: pair by pair of segments, pixel by pixel."""
    ious: list[list[float]] = [[] for _ in CLASSES]
    numbers = [[0, 0, 0] for _ in CLASSES]
    for true, found in pairs:
        known, guessed = true.ids.numpy(), found.ids.numpy()
        matched_true, matched_found = set(), set()
        for segment, label in true.labels.items():
            for other, other_label in found.labels.items():
                mask, other_mask = known == segment, (guessed == other) & (known != 0)
                either = int((mask | other_mask).sum())
                iou = int((mask & other_mask).sum()) / either if either else 0
                if label == other_label and not true.crowd[segment] and iou > 0.5:
                    ious[label].append(iou)
                    matched_true.add(segment)
                    matched_found.add(other)
        for segment, label in true.labels.items():
            numbers[label][0] += segment in matched_true
            numbers[label][2] += segment not in matched_true and not true.crowd[segment]
        for other, label in found.labels.items():
            crowds = [segment for segment in true.labels if true.crowd[segment] and true.labels[segment] == label]
            mask = guessed == other
            ignored = mask & ((known == 0) | (known == crowds[-1]) if crowds else known == 0)
            numbers[label][1] += other not in matched_found and ignored.sum() / mask.sum() <= 0.5
    return ious, numbers


def random_map(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Rectangles over each other and over void, of which few pixels are left or all."""
    ids = np.zeros(size, np.int32)
    for segment in rng.choice(10**7, rng.integers(0, 9), replace=False) + 1:
        top, left = (int(rng.integers(0, side)) for side in size)
        ids[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = segment
    return ids


def random_pair(rng: np.random.Generator) -> tuple[Panoptic, Panoptic]:
    """A truth with voids and crowds, and a prediction that is near it here and elsewhere not."""
    size = int(rng.integers(1, 13)), int(rng.integers(1, 13))
    known = random_map(rng, size)
    guessed = np.where(random_map(rng, size) > 0, random_map(rng, size), np.roll(known, rng.integers(0, 2), axis=1))
    present = [segment for segment in np.unique(known).tolist() if segment]
    labels = {segment: int(rng.integers(0, 4)) for segment in rng.permutation(present).tolist()}
    crowd = {segment: bool(rng.random() < 0.3) for segment in labels}
    found = {
        segment: labels[segment] if segment in labels and rng.random() < 0.8 else int(rng.integers(0, 4))
        for segment in np.unique(guessed).tolist()
        if segment
    }
    return Panoptic(torch.from_numpy(known), labels, crowd), Panoptic(torch.from_numpy(guessed), found)


def random_pairs(seed: int, number: int) -> list[tuple[Panoptic, Panoptic]]:
    rng = np.random.default_rng(seed)
    return [random_pair(rng) for _ in range(number)]


def test_single_images_equal_the_definition() -> None:
    for pair in random_pairs(0, 600):
        _, numbers = by_definition([pair])
        metric = scored(pair)
        assert [list(counts(metric, label)) for label in range(4)] == numbers


def test_numbers_equal_the_definition() -> None:
    pairs = random_pairs(1, 500)
    ious, numbers = by_definition(pairs)
    rows = []
    for of_class, (hits, extra, missed) in zip(ious, numbers, strict=True):
        assert min(hits, extra, missed) > 20
        weight = hits + extra / 2 + missed / 2
        rows.append([sum(of_class) / weight, sum(of_class) / hits, hits / weight])
    metric = scored(*pairs)
    for record, row in zip(metric.per_class(), rows, strict=True):
        assert [record[stat] for stat in ("PQ", "SQ", "RQ")] == pytest.approx([100 * value for value in row], rel=1e-12)
    table = 100 * np.array(rows)
    expected = [*table.mean(axis=0), *table[:2].mean(axis=0), *table[2:].mean(axis=0)]
    numbers_of_all = metric.compute()
    assert tuple(numbers_of_all) == metric.names == NAMES
    assert list(numbers_of_all.values()) == pytest.approx(expected, rel=1e-12)


def test_the_random_maps_have_the_hard_cases() -> None:
    pairs = random_pairs(0, 600)
    halves = crowded = 0
    for true, found in pairs:
        known, guessed = true.ids.numpy(), found.ids.numpy()
        of_crowds = [label for segment, label in true.labels.items() if true.crowd[segment]]
        crowded += len(set(of_crowds)) < len(of_crowds)
        for segment in true.labels:
            for other in found.labels:
                mask, other_mask = known == segment, (guessed == other) & (known != 0)
                halves += 2 * (mask & other_mask).sum() == (mask | other_mask).sum() > 0
    assert halves > 50
    assert crowded > 20


# --- streams and processes -------------------------------------------------------------------------------------------


def batch(pairs: list[tuple[Panoptic, Panoptic]], names: list[int]) -> tuple[list[Prediction], list[Target]]:
    """The named ones of the pairs, as `update` takes them."""
    return [Prediction(panoptic=pairs[name][1]) for name in names], [
        target(str(name), pairs[name][0]) for name in names
    ]


def test_order_and_batches_change_no_digit() -> None:
    pairs = random_pairs(2, 300)
    together = PanopticQuality(CLASSES, THINGS)
    together.update(*batch(pairs, list(range(300))))
    for seed in range(5):
        order = random.Random(seed).sample(range(300), 300)
        apart = PanopticQuality(CLASSES, THINGS)
        for start in range(0, 300, 7):
            apart.update(*batch(pairs, order[start : start + 7]))
        assert apart.compute() == together.compute()
        assert apart.per_class() == together.per_class()


def test_the_order_would_matter_to_a_plain_sum() -> None:
    ious, _ = by_definition(random_pairs(2, 300))
    assert any(sum(of_class) != sum(sorted(of_class)) for of_class in ious)


def test_gathering_without_processes_changes_nothing() -> None:
    metric = scored(*random_pairs(3, 20))
    before = metric.compute(), metric.per_class()
    metric.gather()
    assert (metric.compute(), metric.per_class()) == before


def gather_in_process(process: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=processes)
    metric = PanopticQuality(CLASSES, THINGS)
    metric.update(*batch(random_pairs(4, 100), list(range(process, 100, processes))))
    metric.gather()
    torch.save((metric.compute(), metric.per_class()), f"{folder}/{process}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_agree_with_one_to_the_last_digit(tmp_path: Path, processes: int) -> None:
    arguments = (processes, str(tmp_path))
    torch.multiprocessing.start_processes(gather_in_process, arguments, nprocs=processes, start_method="fork")
    alone = PanopticQuality(CLASSES, THINGS)
    alone.update(*batch(random_pairs(4, 100), list(range(100))))
    for process in range(processes):
        assert torch.load(tmp_path / f"{process}.pt") == (alone.compute(), alone.per_class())


def test_an_image_in_two_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panoptic_quality, "gather_objects", lambda value: [value, value])
    with pytest.raises(ValueError, match="two processes scored the same image"):
        scored((ONE, ONE)).gather()


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["panoptic_quality", {"name": "panoptic_quality"}])
def test_a_word_is_enough_in_the_yaml(entry: object) -> None:
    config = TypeAdapter(MetricConfig).validate_python(entry)
    metric = config.build(DatasetInfo("panoptic", "x", CLASSES, THINGS))
    assert metric.primary == "PQ"
    assert metric.names == NAMES
    assert metric.protocol


@pytest.mark.parametrize("task", ["semantic", "instance", "depth"])
def test_data_of_another_task_are_refused(task: str) -> None:
    with pytest.raises(UserError, match=rf"metrics\.panoptic_quality: x is {task} data"):
        PanopticQualityConfig().build(DatasetInfo(task, "x", CLASSES))
