"""Statistics of runs that differ by their seed and by one setting. Pure functions of numbers.

All of them use Student's t distribution: if scores are normal, intervals and tests are exact for any number of seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, the degrees of freedom, and the 95 % t-interval [low, high] of the mean.

    sd: standard deviation of the values, with n - 1 in the denominator. For a single value all but the mean are NaN.
    """

    mean: float
    sd: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float

    @property
    def p(self) -> float:
        """P-value of the two-sided t-test that the mean is 0. If all values are equal: 1 if they are 0, else NaN."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else math.nan
        return float(2 * t.sf(abs(self.mean) / self.standard_error, self.degrees_of_freedom))

    def smallest_shown(self, comparisons: int = 1) -> float:
        """The true mean that the two-sided test at 5 % finds, with its sign, in 80 % of repetitions.

        comparisons: the test is done at 5 % divided by this number, the strictest level of Holm's correction.
        The standard error is assumed to be the true one. Solves P(T > critical value) = 0.8 for a noncentral t.
        """
        if not self.standard_error > 0:
            return self.standard_error
        critical = t.isf(LEVEL / comparisons / 2, self.degrees_of_freedom)
        shift = brentq(lambda shift: nct.sf(critical, self.degrees_of_freedom, shift) - POWER, 0, 2 * critical + 5)
        return float(shift * self.standard_error)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of scores, one per seed."""
    array, n = np.asarray(values, float), len(values)
    sd = float(array.std(ddof=1)) if n > 1 else math.nan
    return _estimate(float(array.mean()), sd, sd / math.sqrt(n), n - 1)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The mean of the differences value - baseline of each seed; its p is that of the paired t-test."""
    return mean([value - other for value, other in zip(values, baseline, strict=True)])


def unpaired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The difference of two means over different seeds, without assuming equal variances (Welch 1947). `sd` is NaN."""
    parts = [mean(values), mean(baseline)]
    variances = [part.standard_error**2 for part in parts]
    freedom = sum(part.degrees_of_freedom for part in parts)
    if sum(variances) > 0:
        shares = [variance / sum(variances) for variance in variances]
        freedom = 1 / sum(share**2 / part.degrees_of_freedom for share, part in zip(shares, parts, strict=True))
    return _estimate(parts[0].mean - parts[1].mean, math.nan, math.sqrt(sum(variances)), freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: tested at 5 %, one or more of them are false alarms in at most 5 % of cases.

    Holm 1979, "A simple sequentially rejective multiple test procedure". Returns adjusted p-values in the same order.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def _estimate(mean: float, sd: float, error: float, freedom: float) -> Estimate:
    half_width = float(t.isf(LEVEL / 2, freedom)) * error if error == error else math.nan
    return Estimate(mean, sd, error, freedom, mean - half_width, mean + half_width)
