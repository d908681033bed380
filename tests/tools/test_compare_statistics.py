"""The statistics of tools.compare against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from tools.compare.statistics import holm, mean, paired_difference, unpaired_difference

VALUES, OTHERS = [42.2, 40.1, 43.7, 41.0, 44.9], [40.9, 39.2, 41.1, 41.4, 42.0]


def test_mean_and_interval_of_two_values_have_their_closed_form():
    # One degree of freedom is Cauchy's distribution, whose 97.5 % quantile is tan(0.475 pi); the error is 1.
    found = mean([3.0, 5.0])
    assert (found.mean, found.sd, found.standard_error, found.degrees_of_freedom) == (
        4,
        math.sqrt(2),
        pytest.approx(1),
        1,
    )
    assert (found.low, found.high) == pytest.approx((4 - math.tan(0.475 * math.pi), 4 + math.tan(0.475 * math.pi)))


def test_one_value_has_a_mean_and_nothing_else():
    found = mean([3.0])
    assert found.mean == 3
    assert all(math.isnan(number) for number in (found.sd, found.standard_error, found.low, found.high, found.p))
    assert math.isnan(found.smallest_shown())


def test_paired_test_is_that_of_scipy():
    found, expected = paired_difference(VALUES, OTHERS), stats.ttest_rel(VALUES, OTHERS)
    interval = expected.confidence_interval()
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


@pytest.mark.parametrize("others", [OTHERS, OTHERS[:2]])
def test_unpaired_test_is_that_of_scipy(others):
    found, expected = unpaired_difference(VALUES, others), stats.ttest_ind(VALUES, others, equal_var=False)
    interval = expected.confidence_interval()
    assert (found.p, found.degrees_of_freedom) == pytest.approx((expected.pvalue, expected.df))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("difference", [paired_difference, unpaired_difference])
def test_values_without_spread(difference):
    equal, apart = difference([1.0, 1.0], [1.0, 1.0]), difference([3.0, 3.0], [1.0, 1.0])
    assert (equal.mean, equal.low, equal.high, equal.p, equal.smallest_shown()) == (0, 0, 0, 1, 0)
    assert (apart.mean, apart.low, apart.high, apart.p, apart.smallest_shown()) == (
        2,
        2,
        2,
        pytest.approx(math.nan, nan_ok=True),
        0,
    )


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, then 0.022 * 2 and 0.9, which may not fall below the one before.
    assert holm([0.02, 0.9, 0.01, 0.022]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.5, 0.7]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_rejects_what_the_sequential_procedure_rejects():
    generator = np.random.default_rng(0)
    for p_values in generator.random((300, 5)) ** 3:
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values)):  # stops at the first that is not rejected
            if p_values[index] > 0.05 / (5 - rank):
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(list(p_values))) if p <= 0.05} == rejected


def test_false_alarms_among_equal_variants_stay_below_five_percent():
    # Four variants and the baseline, all alike; seeds shift all of them together, as data order does.
    generator, repetitions, alarms = np.random.default_rng(1), 600, 0
    for _ in range(repetitions):
        scores = 40 + generator.normal(size=(1, 4)) + generator.normal(size=(5, 4))
        alarms += min(holm([paired_difference(scores[index], scores[0]).p for index in range(1, 5)])) < 0.05
    assert 0 < alarms / repetitions < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_hold_the_truth_in_95_percent(seeds):
    repetitions = 1000
    samples = np.random.default_rng(2).normal(7, 3, size=(repetitions, seeds))
    inside = np.mean([found.low < 7 < found.high for found in map(mean, samples)])
    assert abs(inside - 0.95) < 3 * math.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_smallest_shown_difference_is_found_in_80_percent(seeds, comparisons):
    example = np.random.default_rng(3).normal(size=seeds)
    example = (example - example.mean()) / example.std(ddof=1)  # a sample whose spread is exactly 1
    truth = mean(list(example)).smallest_shown(comparisons)
    samples = np.random.default_rng(4).normal(truth, 1, size=(20_000, seeds))
    found = stats.ttest_1samp(samples, 0, axis=1)
    power = np.mean((found.pvalue < 0.05 / comparisons) & (found.statistic > 0))
    assert abs(power - 0.8) < 4 * math.sqrt(0.16 / 20_000)


def test_smallest_shown_difference_of_many_seeds_is_that_of_the_normal_distribution():
    values = list(np.random.default_rng(5).normal(size=100_000))
    found = mean(values)
    assert found.smallest_shown() == pytest.approx((1.959964 + 0.841621) * found.standard_error, rel=1e-4)
