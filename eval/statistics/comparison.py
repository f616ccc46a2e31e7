"""Methods against a baseline on the same test rows: differences, intervals, tests and verdicts.

With several seeds a verdict is about the *methods*. The variance of a difference has a component from the rows, which
are paired, and one from the seeds, which are not: seed 1 of one method has nothing in common with seed 1 of another.
The degrees of freedom are Satterthwaite's. With one seed a verdict can only be about the two *trained models*. How
often verdicts are wrong, and how often a difference is found, is simulated in the tests; docs/comparisons.md has the
table.

References:
    Welch, B. L. (1947). The generalization of 'Student's' problem when several different population variances are
        involved. Biometrika 34.
    Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance components. Biometrics 2.
    Bonett, D. G. and Price, R. M. (2012). Adjusted Wald confidence interval for a difference of binomial proportions
        based on paired data. J. Educational and Behavioral Statistics 37 (two additional rows, one in each direction).
    Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability. J. Pharmacokinetics and Biopharmaceutics 15.
    Agarwal, R. et al. (2021). Deep reinforcement learning at the edge of the statistical precipice. NeurIPS (why seeds
        belong in the interval).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .intervals import LEVEL, Interval, quantile
from .models import Common, Models, Variance, common_variance, variance_of_seeds
from .multiple import holm

Verdict = Literal["better", "worse", "equal", "inconclusive"]
Name = TypeVar("Name", bound=Hashable)

ALPHA = 0.05
#: a row whose difference is smaller than this fraction of the largest does not count as differing
_TINY = 0.01


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline.

    Attributes:
        difference: of the means, method minus baseline.
        interval: 95 % interval of the difference.
        p: p value of no difference, corrected for all comparisons of the report.
        p_equal: p value of a difference of the margin or more, corrected likewise; None without a margin.
        margin: differences below it are considered too small to matter.
        seeds: number of seeds of the method and of the baseline.
        rows: number of rows that all models were tested on.
        higher_is_better: which way the number is better.
    """

    difference: float
    interval: Interval
    p: float
    p_equal: float | None
    margin: float | None
    seeds: tuple[int, int]
    rows: int
    higher_is_better: bool = True

    @property
    def about_methods(self) -> bool:
        """Whether other seeds are accounted for; otherwise the verdict is about two trained models."""
        return min(self.seeds) > 1

    @property
    def verdict(self) -> Verdict:
        """What is shown: a difference, that there is none of the margin's size, or neither."""
        if self.p < ALPHA:
            return "better" if (self.difference > 0) == self.higher_is_better else "worse"
        return "equal" if self.p_equal is not None and self.p_equal < ALPHA else "inconclusive"


def compare(
    methods: Mapping[Name, Models], baseline: Models, margin: float | None = None, *, higher_is_better: bool = True
) -> tuple[dict[Name, Comparison], Common | None]:
    """Compare the methods of a report with their baseline.

    Args:
        methods: by name, without the baseline.
        baseline: on the same rows.
        margin: differences below it are too small to matter; if None, the verdict is never equal.
        higher_is_better: which way the numbers are better.

    Returns:
        The comparisons, and the variance between seeds that the methods have in common.

    Raises:
        ValueError: different numbers of rows.
    """
    (found,) = compare_all([(methods, baseline)], margin, higher_is_better=higher_is_better)
    return found


def compare_all(
    groups: Sequence[tuple[Mapping[Name, Models], Models]],
    margin: float | None = None,
    *,
    higher_is_better: bool = True,
) -> list[tuple[dict[Name, Comparison], Common | None]]:
    """Several comparisons, such as one under each of several conditions, whose p values are corrected together.

    Args:
        groups: methods by name, and their baseline, as `compare` takes them; the groups may have different rows.
        margin: see `compare`.
        higher_is_better: see `compare`.

    Returns:
        What `compare` gives, for each group.

    Raises:
        ValueError: different numbers of rows within a group.
    """
    commons = [common_variance([baseline, *methods.values()]) for methods, baseline in groups]
    differences = [
        (group, name, _Difference(models, baseline, commons[group]))
        for group, (methods, baseline) in enumerate(groups)
        for name, models in methods.items()
    ]
    p = holm([one.p for _, _, one in differences])
    equal = None if margin is None else holm([one.p_equal(margin) for _, _, one in differences])
    found: list[dict[Name, Comparison]] = [{} for _ in groups]
    for index, (group, name, one) in enumerate(differences):
        methods, baseline = groups[group]
        found[group][name] = Comparison(
            one.value,
            one.interval(),
            p[index],
            None if equal is None else equal[index],
            margin,
            (methods[name].seeds, baseline.seeds),
            baseline.rows,
            higher_is_better,
        )
    return list(zip(found, commons, strict=True))


class _Difference:
    """A difference of two means and how it varies.

    Args:
        method: its models.
        baseline: on the same rows.
        common: of the report.
    """

    def __init__(self, method: Models, baseline: Models, common: Common | None) -> None:
        if method.rows != baseline.rows:
            raise ValueError(f"{method.rows} and {baseline.rows} rows can't be paired")
        of_rows = method.of_rows - baseline.of_rows
        self.value = float(of_rows.mean())
        self._rows = baseline.rows
        variance = _of_rows(of_rows)
        if min(method.seeds, baseline.seeds) > 1:
            variance += variance_of_seeds([method, baseline], common)
        self._error = math.sqrt(variance.value)
        self._degrees = variance.degrees()
        # If no row differs there is nothing to estimate from: that many rows without a difference bound how often one
        # can occur (Clopper and Pearson 1934; about 3 / rows), and how large it can be.
        self._none = not of_rows.any()
        low = min(method.of_rows.min(), baseline.of_rows.min())
        self._range = float(max(method.of_rows.max(), baseline.of_rows.max()) - low)
        if method.bounds is not None and method.bounds[1] is not None:
            self._range = method.bounds[1] - method.bounds[0]

    def interval(self, level: float = LEVEL) -> Interval:
        """The interval of the difference."""
        half = quantile(self._degrees, level) * self._error
        if self._none:
            half = max(half, self._range * (1.0 - (1.0 - level) ** (1.0 / self._rows)))
        return Interval(self.value - half, self.value + half)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        return 1.0 if self._none or not self._error else 2 * self._beyond(abs(self.value))

    def p_equal(self, margin: float) -> float:
        """p value of a difference of the margin or more, by two one-sided tests."""
        found = max(self._beyond(margin - self.value), self._beyond(margin + self.value))
        if self._none:
            found = max(found, (1 - min(margin / self._range, 1)) ** self._rows if self._range else 0.0)
        return found

    def _beyond(self, distance: float) -> float:
        """Probability that the mean over other rows and seeds is that far off, in one direction."""
        from scipy.special import stdtr

        if not self._error:
            return 1.0 if distance <= 0 else 0.0
        return float(stdtr(min(max(self._degrees, 0.1), 1e9), -distance / self._error))


def _of_rows(differences: NDArray[np.float64]) -> Variance:
    """Variance of the mean of paired differences, with two additional rows that differ in opposite directions.

    Without these, a few rows that happen to differ in one direction would pass for a certain difference.
    """
    rows = len(differences)
    squares = float(differences @ differences)
    # If a metric is not a mean over rows, each row's number depends a little on all others.
    differing = np.abs(differences) > _TINY * np.abs(differences).max(initial=0.0)
    typical = float((differences[differing] ** 2).mean()) if differing.any() else 0.0
    total = float(differences.sum())
    value = max((squares + 2 * typical - total**2 / (rows + 2)) / (rows + 1) / (rows + 2), 0.0)
    return Variance(value, value**2 / max(rows - 1, 1))
