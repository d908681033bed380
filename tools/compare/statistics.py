"""Statistics of runs that differ by their seed and by one setting. Pure functions of numbers.

Student's t throughout: intervals and tests are exact where scores are normal, however few the seeds.
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
    """A mean with its standard error, the degrees of freedom of that, and the 95 % t-interval of the mean.

    sd: of the single values, n - 1 in the denominator. All but the mean are NaN where there is a single value.
    """

    mean: float
    sd: float
    error: float
    freedom: float
    low: float
    high: float

    @property
    def p(self) -> float:
        """Of the two-sided t-test that the mean is 0. Values without any spread: 1 if they are 0, else NaN."""
        if self.error == 0:
            return 1.0 if self.mean == 0 else math.nan
        return float(2 * t.sf(abs(self.mean) / self.error, self.freedom))

    def smallest_shown(self, comparisons: int = 1) -> float:
        """The true mean that the two-sided test at 5 % finds, with its sign, in 80 % of repetitions.

        comparisons: for a test at 5 % divided by this number, the strictest that Holm's correction asks for.
        The standard error is taken for the true one. Solves P(T > critical value) = 0.8, T being noncentral t.
        """
        if not self.error > 0:
            return self.error
        critical = t.isf(LEVEL / comparisons / 2, self.freedom)
        shift = brentq(lambda shift: nct.sf(critical, self.freedom, shift) - POWER, 0, 2 * critical + 5)
        return float(shift * self.error)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of scores, one per seed."""
    array, n = np.asarray(values, float), len(values)
    sd = float(array.std(ddof=1)) if n > 1 else math.nan
    return _estimate(float(array.mean()), sd, sd / math.sqrt(n), n - 1)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The mean of value - baseline, seed by seed; its p is that of the paired t-test."""
    return mean([value - other for value, other in zip(values, baseline, strict=True)])


def unpaired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The difference of two means over different seeds, not assuming equal spread (Welch 1947). `sd` is NaN."""
    parts = [mean(values), mean(baseline)]
    variances = [part.error**2 for part in parts]
    freedom = sum(part.freedom for part in parts)
    if sum(variances) > 0:
        shares = [variance / sum(variances) for variance in variances]
        freedom = 1 / sum(share**2 / part.freedom for share, part in zip(shares, parts, strict=True))
    return _estimate(parts[0].mean - parts[1].mean, math.nan, math.sqrt(sum(variances)), freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: testing them at 5 %, one or more false alarms come in 5 % of cases at most.

    Holm 1979, "A simple sequentially rejective multiple test procedure", as adjusted p-values in the order given.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def _estimate(mean: float, sd: float, error: float, freedom: float) -> Estimate:
    reach = float(t.isf(LEVEL / 2, freedom)) * error if error == error else math.nan
    return Estimate(mean, sd, error, freedom, mean - reach, mean + reach)
