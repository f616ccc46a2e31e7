"""Intervals of a mean: over rows alone, over seeds alone, or over both.

References:
    Student (1908). The probable error of a mean. Biometrika 6.
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22.
    Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance components. Biometrics 2.
    Korn, E. L. and Graubard, B. I. (1998). Confidence intervals for proportions with small expected number of positive
        counts estimated from survey data. Survey Methodology 24 (the effective number of rows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .models import Common, Models, Variance, variance_of_seeds

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A closed interval."""

    low: float
    high: float

    def moved(self, by: float) -> Interval:
        """The interval, shifted by a number."""
        return Interval(self.low + by, self.high + by)

    @property
    def contains_zero(self) -> bool:
        """Whether zero (no difference) is inside."""
        return self.low <= 0.0 <= self.high


def seeds_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """t interval of the mean of one number per seed, if rows are not known; None for one seed."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    half = quantile(len(values) - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


def value_interval(models: Models, common: Common | None, level: float = LEVEL) -> Interval:
    """Interval of a method's mean: over unseen rows and, with several seeds, over other seeds too.

    Args:
        models: of the method.
        common: the variance between seeds that the report's methods have in common.
        level: of confidence.
    """
    rows = float(models.of_rows.var(ddof=1)) / models.rows if models.rows > 1 else 0.0
    variance = Variance(rows, rows**2 / max(models.rows - 1, 1))
    if models.seeds > 1:
        variance += variance_of_seeds([models], common)
    if models.bounds is not None and models.bounds[1] is None:
        return positive_interval(models.mean - models.bounds[0], variance, level).moved(models.bounds[0])
    if models.bounds is not None and models.bounds[1] is not None:
        low, width = models.bounds[0], models.bounds[1] - models.bounds[0]
        share = min(max((models.mean - low) / width, 0.0), 1.0)
        spread = share * (1 - share) * width**2
        effective = spread / variance.value if variance.value > 0 and spread > 0 else float(models.rows)
        found = share_interval(share, effective, quantile(variance.degrees(), level))
        return Interval(width * found.low, width * found.high).moved(low)
    half = quantile(variance.degrees(), level) * math.sqrt(variance.value)
    return Interval(models.mean - half, models.mean + half)


def positive_interval(value: float, variance: Variance, level: float = LEVEL) -> Interval:
    """Interval of a number above 0, such as an error, whose estimates are skewed: a t interval of its logarithm."""
    if value <= 0:
        return Interval(0.0, quantile(variance.degrees(), level) * math.sqrt(variance.value))
    half = quantile(variance.degrees(), level) * math.sqrt(variance.value) / value
    return Interval(value * math.exp(-half), value * math.exp(min(half, 700.0)))


def share_interval(share: float, rows: float, quantile: float) -> Interval:
    """Wilson's interval of a proportion.

    Args:
        share: of right rows.
        rows: number of rows, or the effective number of independent ones.
        quantile: of the normal or the t distribution.

    Raises:
        ValueError: no rows, or a share outside 0 to 1.
    """
    if rows <= 0 or not 0 <= share <= 1:
        raise ValueError(f"no interval for a share of {share} of {rows} rows")
    square = quantile * quantile
    center = (share + square / (2 * rows)) / (1 + square / rows)
    half = quantile / (1 + square / rows) * math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    # Rounding must not push the ends out of the possible range, nor exclude the observed share.
    return Interval(max(0.0, min(center - half, share)), min(1.0, max(center + half, share)))


def quantile(degrees: float, level: float = LEVEL) -> float:
    """Quantile of the t distribution, for a two-sided interval."""
    from scipy.special import stdtrit

    return -float(stdtrit(min(max(degrees, 0.1), 1e9), (1 - level) / 2))
