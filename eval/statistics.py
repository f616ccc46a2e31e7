"""Intervals, paired tests and verdicts: how sure a comparison of two methods can be.

References:
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22.
    Student (1908). The probable error of a mean. Biometrika 6.
    McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
        percentages. Psychometrika 12.
    Fisher, R. A. (1935). The Design of Experiments (the sign-flip permutation test).
    Efron, B. and Tibshirani, R. (1993). An Introduction to the Bootstrap (percentile intervals).
    Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and Their Application, 3.8.
    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statistics 6.
    Dror, R. et al. (2018). The Hitchhiker's Guide to Testing Statistical Significance in NLP. ACL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["better", "worse", "no call"]
#: rows of one model: was the answer right
Answers = Sequence[bool]

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 10_000
#: differences below one point are taken as too small to matter
MARGIN = 0.01


@dataclass(frozen=True)
class Interval:
    """A closed interval."""

    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether no difference lies inside."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on the same rows, seed by seed.

    Attributes:
        difference: share of rows right, method minus baseline.
        interval: 95 % interval of the difference.
        p: of no difference, for this comparison alone.
        p_holm: corrected for all comparisons of a report; equal to `p` before `judge`.
        seeds: that both have.
        rows: of each seed.
    """

    difference: float
    interval: Interval
    p: float
    p_holm: float
    seeds: tuple[int, ...]
    rows: int

    @property
    def verdict(self) -> Verdict:
        """A winner only where the interval leaves out 0 and the corrected test agrees."""
        if self.interval.contains_zero or self.p_holm >= ALPHA:
            return "no call"
        return "better" if self.difference > 0 else "worse"

    @property
    def too_wide(self) -> bool:
        """No winner, and differences that matter (over one point) are still possible.

        More rows or seeds are needed. A "no call" that is not too wide means equal to within one point.
        """
        inside = self.interval.low >= -MARGIN and self.interval.high <= MARGIN
        return self.verdict == "no call" and not inside


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, Interval | None]:
    """Mean and its t interval (Student 1908); no interval for one value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    from scipy.stats import t

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, Interval(mean - half, mean + half)


def wilson_interval(right: int, rows: int, level: float = LEVEL) -> Interval:
    """Interval of a share of right rows that stands for rows yet unseen (Wilson 1927).

    Raises:
        ValueError: no rows, or more right ones than rows.
    """
    if rows < 1 or not 0 <= right <= rows:
        raise ValueError(f"{right} of {rows} rows right")
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    share = right / rows
    center = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # Rounding must not push the ends out of what is possible, nor off the observed share.
    return Interval(max(0.0, min(center - half, share)), min(1.0, max(center + half, share)))


def compare(method: Mapping[int, Answers], baseline: Mapping[int, Answers], rng_seed: int = 0) -> Comparison | None:
    """Paired comparison over the seeds that both have with equally many rows.

    Args:
        method: seed -> whether each test row was answered rightly.
        baseline: the same, rows in the same order.
        rng_seed: of the bootstrap.

    Returns:
        None where no seed can be paired. All paired seeds have the row count that most of them share.
    """
    common = [s for s in sorted(method) if s in baseline and len(method[s]) == len(baseline[s]) > 0]
    if not common:
        return None
    counts = [len(method[seed]) for seed in common]
    rows = max(counts, key=lambda count: (counts.count(count), count))
    seeds = tuple(seed for seed, count in zip(common, counts, strict=True) if count == rows)
    # [seeds, rows]: 1 only the method was right, -1 only the baseline, 0 both or neither
    signs = np.array([np.subtract(method[s], baseline[s], dtype=np.int64) for s in seeds])
    p = sign_flip_p(signs.sum(axis=0))
    return Comparison(float(signs.mean()), bootstrap_interval(signs, rng_seed), p, p, seeds, rows)


def bootstrap_interval(signs: NDArray[np.int64], rng_seed: int = 0, level: float = LEVEL) -> Interval:
    """Percentile interval of the mean of ``signs[seeds, rows]``, resampling rows and seeds.

    A resample draws seeds and, apart from them, rows, each with replacement: every seed was tested on the
    same rows, so the two are crossed. With few seeds the bootstrap understates how much seeds vary (by a
    factor of ``sqrt((n - 1) / n)``); with one it says nothing about it.
    """
    rng = np.random.default_rng(rng_seed)
    seeds, rows = signs.shape
    if not signs.any():
        # Nothing to resample from: as many rows without a difference bound how often one can occur
        # (Clopper and Pearson 1934; about 3 / rows).
        bound = 1.0 - (1.0 - level) ** (1.0 / rows)
        return Interval(-bound, bound)
    # Rows with equal signs in all seeds are interchangeable: drawing how often each kind occurs is the same.
    kinds, counts = np.unique(signs, axis=1, return_counts=True)
    drawn_rows = rng.multinomial(rows, counts / rows, size=RESAMPLES)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    means = ((drawn_seeds @ kinds) * drawn_rows).sum(axis=1) / (seeds * rows)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def sign_flip_p(differences: NDArray[np.int64]) -> float:
    """Two-sided p value of whole-number paired differences under random flips of their signs (Fisher 1935).

    All ``2^n`` flips are counted, by convolution, so that nothing is sampled. With differences of -1, 0 and 1
    only (one seed) this is McNemar's test in its exact, binomial form. Differences summed over seeds test the
    trained models at hand; how much other seeds would vary is in the interval, not in this p value.
    """
    observed = abs(int(differences.sum()))
    if observed == 0:
        return 1.0
    from scipy.stats import binom

    # distribution of the sum of flipped differences; index 0 stands for minus `reach`
    chances: NDArray[np.float64] = np.ones(1)
    reach = 0
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps: NDArray[np.float64] = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
        reach += size * count
    return min(1.0, 2.0 * float(chances[reach + observed :].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for making several tests at once, in the given order (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def judge(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The comparisons of one report, with p values corrected for their number."""
    known = [comparison for comparison in comparisons if comparison is not None]
    corrected = iter(holm([comparison.p for comparison in known]))
    return [None if c is None else replace(c, p_holm=next(corrected)) for c in comparisons]
