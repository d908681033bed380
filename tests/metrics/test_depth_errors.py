from fractions import Fraction
from math import log, log10, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from pydantic import TypeAdapter

from errors import UserError
from metrics import MetricConfig
from metrics.depth_errors import NAMES, DepthErrors, DepthErrorsConfig, compute_means, crop_window
from structures import DatasetInfo, Prediction, Target

INFO = DatasetInfo("depth", "test", max_depth=10)


def add(metric: DepthErrors, name: str, true: object, predicted: object) -> None:
    depth = torch.as_tensor(np.asarray(true, np.float32))
    metric.update(
        [Prediction(depth=torch.as_tensor(np.asarray(predicted, np.float32)))],
        [Target(name, (depth.shape[0], depth.shape[1]), depth=depth)],
    )


def maps(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """True depths with holes, some beyond the range, and predictions of all kinds."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.5, 11, size).astype(np.float32)
    true[rng.random(size) < 0.3] = 0
    predicted = (true * rng.uniform(0.6, 1.6, size) + rng.uniform(0, 1, size)).astype(np.float32)
    predicted[0, :4] = [-3, 0, 50, 1e-6]
    return true, predicted


def literal(true: np.ndarray, predicted: np.ndarray, rows: range, columns: range) -> dict[str, float]:
    """The nine numbers of one image, pixel by pixel."""
    pairs = []
    for row in rows:
        for column in columns:
            t, p = float(true[row, column]), float(predicted[row, column])
            if 0.001 < t < 10:
                pairs.append((t, min(max(p, 0.001), 10)))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    logs = [log(p) - log(t) for t, p in pairs]
    return {
        **{f"delta{k}": mean([float(max(p / t, t / p) < 1.25**k) for t, p in pairs]) for k in (1, 2, 3)},
        "abs_rel": mean([abs(p - t) / t for t, p in pairs]),
        "rms": sqrt(mean([(p - t) ** 2 for t, p in pairs])),
        "log10": mean([abs(log10(p) - log10(t)) for t, p in pairs]),
        "rms_log": sqrt(mean([e**2 for e in logs])),
        "sq_rel": mean([(p - t) ** 2 / t for t, p in pairs]),
        "silog": 100 * sqrt(mean([e**2 for e in logs]) - mean(logs) ** 2),
    }


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_closed_form_of_a_prediction_twice_as_far() -> None:
    true = np.full((3, 4), 2.0)
    metric = DepthErrorsConfig(crop="none").build(INFO)
    add(metric, "a", true, 2 * true)
    expected = {"delta1": 0, "delta2": 0, "delta3": 0, "abs_rel": 1, "rms": 2, "log10": log10(2)}
    expected |= {"rms_log": log(2), "sq_rel": 2, "silog": 0}
    assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_perfect_predictions() -> None:
    metric = DepthErrorsConfig().build(INFO)
    add(metric, "a", maps(0)[0], maps(0)[0])
    numbers = metric.compute()
    assert tuple(numbers) == NAMES == metric.names
    assert list(numbers.values()) == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_delta_excludes_its_threshold() -> None:
    found = compute_means(np.array([[1.25, 1.2499, 1.5625, 1.5624, 0.8, 1.953125]]), np.ones((1, 6)), (0.001, 10))
    assert found is not None
    assert found[:4] == pytest.approx([6, 1 / 6, 4 / 6, 5 / 6])


def test_delta_counts_the_float32_numbers_next_to_its_threshold() -> None:
    true = np.random.default_rng(0).uniform(0.5, 1.9, 300).astype(np.float32).round(2)
    limit = (true * np.repeat([1.25, 1.25**2, 1.25**3], 100)).astype(np.float32)
    predicted = np.stack([np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, np.float32(9))])
    pairs = [(Fraction(float(p)), Fraction(float(t))) for row in predicted for p, t in zip(row, true, strict=True)]
    for swap in (False, True):
        given = np.broadcast_to(true, predicted.shape)
        found = compute_means(*((given, predicted) if swap else (predicted, given)), (0.001, 10))
        assert found is not None
        for power in (1, 2, 3):
            expected = sum(max(p / t, t / p) < Fraction(5, 4) ** power for p, t in pairs) / len(pairs)
            assert found[power] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_literal_numbers_of_one_image(seed: int) -> None:
    true, predicted = maps(seed)
    metric = DepthErrorsConfig(crop="none").build(INFO)
    add(metric, "a", true, predicted)
    assert metric.compute() == pytest.approx(literal(true, predicted, range(24), range(32)), rel=1e-9)


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        ("eigen", range(45, 471), range(41, 601)),
        ("nyu", range(44, 471), range(40, 601)),
        ("garg", range(195, 476), range(23, 616)),
        ("none", range(480), range(640)),
    ],
)
def test_crops_of_nyus_images(crop: str, rows: range, columns: range) -> None:
    window = crop_window(crop, (480, 640))  # type: ignore[arg-type]
    assert np.arange(480)[window[0]].tolist() == list(rows)
    assert np.arange(640)[window[1]].tolist() == list(columns)


def test_crops_of_other_sizes() -> None:
    assert crop_window("eigen", (240, 320)) == (slice(23, 236), slice(21, 301))
    assert crop_window("nyu", (120, 160)) == (slice(11, 118), slice(10, 150))
    assert crop_window("garg", (375, 1242)) == (slice(153, 371), slice(44, 1197))


def test_pixels_outside_the_crop_and_the_range_do_not_count() -> None:
    true, predicted = maps(1, (480, 640))
    metric = DepthErrorsConfig().build(INFO)
    add(metric, "a", true, predicted)
    true[:45], true[471:], true[:, :41], true[:, 601:] = 5, 5, 5, 5
    predicted[true >= 10] = 1
    again = DepthErrorsConfig().build(INFO)
    add(again, "a", true, predicted)
    assert again.compute() == metric.compute()


def test_both_ends_of_the_range_are_excluded_and_predictions_clamped() -> None:
    metric = DepthErrorsConfig(crop="none", min_depth=1, max_depth=4).build(INFO)
    add(metric, "a", [[1, 4, 2, 2, 0]], [[9, 9, 9, -1, 9]])
    numbers = metric.compute()
    assert numbers["abs_rel"] == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert metric.protocol["depth_range"] == "pixels with 1 m < true depth < 4 m; predictions clamped to that range"


# --- averaging -------------------------------------------------------------------------------------------------------


def test_images_count_the_same_however_many_pixels_they_have() -> None:
    metric = DepthErrorsConfig(crop="none").build(INFO)
    add(metric, "a", np.full((10, 10), 2.0), np.full((10, 10), 2.0))
    add(metric, "b", [[0, 2]], [[2, 4]])
    numbers = metric.compute()
    assert (numbers["abs_rel"], numbers["rms"], numbers["delta1"]) == (0.5, 1, 0.5)


def test_all_pixels_together_are_those_of_one_large_image() -> None:
    metric = DepthErrorsConfig(crop="none", average="pixels").build(INFO)
    pairs = [maps(seed, (24, 4 + seed)) for seed in range(12)]
    for number, (true, predicted) in enumerate(pairs):
        add(metric, str(number), true, predicted)
    add(metric, "nothing", np.zeros((2, 2)), np.ones((2, 2)))
    true, predicted = (np.concatenate(side, axis=1) for side in zip(*pairs, strict=True))
    assert metric.compute() == pytest.approx(literal(true, predicted, range(24), range(true.shape[1])), rel=1e-9)
    assert "pixels" in metric.protocol["depth_averaging"]


@pytest.mark.parametrize("average", ["images", "pixels"])
def test_a_common_factor_costs_no_silog(average: str) -> None:
    metric = DepthErrorsConfig(crop="none", average=average).build(INFO)
    for seed in range(5):
        true = maps(seed)[0]
        add(metric, str(seed), true / 2, true / 3)
    assert metric.compute()["silog"] == pytest.approx(0, abs=1e-3)  # depths are float32


@pytest.mark.parametrize("average", ["images", "pixels"])
def test_order_of_images_does_not_matter(average: str) -> None:
    forward, backward = (DepthErrorsConfig(crop="none", average=average).build(INFO) for _ in range(2))
    for seed in range(20):
        add(forward, str(seed), *maps(seed))
        add(backward, str(19 - seed), *maps(19 - seed))
    assert forward.compute() == backward.compute()
    if average == "pixels":
        return
    expected = [literal(*maps(seed), range(24), range(32))["silog"] for seed in range(20)]
    assert forward.compute()["silog"] == pytest.approx(np.mean(expected), rel=1e-9)


def test_images_without_a_valid_pixel_are_left_out_and_named() -> None:
    alone, metric = (DepthErrorsConfig(crop="none").build(INFO) for _ in range(2))
    add(alone, "a", *maps(0))
    for name, true in (("z", 0), ("m", 10), ("a", None)):
        add(metric, name, *((np.full((4, 4), true), np.ones((4, 4))) if true is not None else maps(0)))
    assert metric.compute() == alone.compute()
    assert alone.protocol["images_without_valid_pixel"] == []
    assert metric.protocol["images_without_valid_pixel"] == ["m", "z"]


def test_nothing_measured_at_all_is_an_error() -> None:
    metric = DepthErrorsConfig().build(INFO)
    add(metric, "a", np.zeros((4, 4)), np.ones((4, 4)))
    with pytest.raises(UserError, match="no pixel was measured within the crop"):
        metric.compute()


def test_predictions_that_are_not_finite_make_errors_nan() -> None:
    metric = DepthErrorsConfig(crop="none").build(INFO)
    add(metric, "a", [[2, 2]], [[2, float("nan")]])
    add(metric, "b", [[2, 2]], [[2, 2]])
    numbers = metric.compute()
    assert all(np.isnan(numbers[name]) for name in metric.lower_is_better)


def test_an_image_counts_once() -> None:
    metric = DepthErrorsConfig().build(INFO)
    add(metric, "a", *maps(0))
    with pytest.raises(ValueError, match="image a was scored before"):
        add(metric, "a", *maps(0))


def gather_in_process(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=2)
    metric = DepthErrorsConfig(crop="none").build(INFO)
    for seed in range(process, 7, 2):
        add(metric, str(seed), *maps(seed))
    add(metric, f"empty {process}", np.zeros((3, 3)), np.ones((3, 3)))
    metric.gather()
    torch.save((metric.compute(), metric.protocol["images_without_valid_pixel"]), f"{folder}/{process}.pt")
    dist.destroy_process_group()


def test_two_processes_agree_with_one_to_the_last_bit(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(gather_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    alone = DepthErrorsConfig(crop="none").build(INFO)
    for seed in range(7):
        add(alone, str(seed), *maps(seed))
    for process in (0, 1):
        assert torch.load(tmp_path / f"{process}.pt") == (alone.compute(), ["empty 0", "empty 1"])


# --- configuration ---------------------------------------------------------------------------------------------------


def test_defaults_follow_the_data() -> None:
    config = TypeAdapter(MetricConfig).validate_python("depth_errors")
    metric = config.build(DatasetInfo("depth", "test", max_depth=8))
    assert "eigen: rows 45:471 and columns 41:601" in metric.protocol["depth_crop"]
    assert "0.001 m < true depth < 8 m" in metric.protocol["depth_range"]
    assert (metric.primary, metric.per_class()) == ("abs_rel", [])
    assert set(metric.names) - metric.lower_is_better == {"delta1", "delta2", "delta3"}


@pytest.mark.parametrize(
    ("options", "info", "message"),
    [
        ({}, DatasetInfo("semantic", "streets", ("road",)), "streets is semantic data, which has no depth"),
        ({"max_depth": 80}, INFO, "80 m is beyond data.max_depth, 10 m"),
        ({"min_depth": 10}, INFO, "10 m is not below the largest depth, 10 m"),
    ],
)
def test_impossible_combinations(options: dict[str, float], info: DatasetInfo, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DepthErrorsConfig(**options).build(info)  # type: ignore[arg-type]
