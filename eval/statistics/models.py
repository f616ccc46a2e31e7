"""The results of a method's models, one per seed, on the same rows, and how much they vary with the seed.

Each row's number is the metric plus the row's influence on it; for a mean over rows that is the row's own number. The
numbers ``y[seed, row]`` are a crossed layout: a mean, an effect of the row, one of the seed, and a residual. Their mean
squares say how large each is (Cornfield and Tukey). The variance between seeds is estimated from very few values. It
may come out small by chance, and a difference then seems large. So the methods of a report pool theirs, as in Smyth's
moderated t: the pooled variance is a lower bound for each.

References:
    Cornfield, J. and Tukey, J. W. (1956). Average values of mean squares in factorials. Ann. Math. Statistics 27.
    Smyth, G. K. (2004). Linear models and empirical Bayes methods for assessing differential expression in
        microarray experiments. Statistical Applications in Genetics and Molecular Biology 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: a variance between seeds counts for at most this many times the median of a report's methods
_CAP = 3.0
#: Satterthwaite's degrees of freedom come from the same few seeds, and are largest if the variance came out small: up
#: to 5.7 % of simulated reports were wrong. Divided by this factor, it is 5 %
_CAUTION = 1.3


#: least and greatest possible value; None if there is no greatest
Bounds = tuple[float, float | None]


@dataclass(frozen=True)
class Models:
    """The models of one method, on the same rows.

    Attributes:
        of_rows: mean over the seeds, ``[rows]``.
        of_seeds: mean over the rows, ``[seeds]``.
        between: variance of the means of the seeds, of which a part is noise.
        noise: that part: the residual variance without row and seed, divided by the number of rows.
        bounds: least and greatest possible mean, such as 0 and 1 for a proportion; None if there are no such bounds.
    """

    of_rows: NDArray[np.float64]
    of_seeds: NDArray[np.float64]
    between: float
    noise: float
    bounds: Bounds | None = None

    @classmethod
    def of(cls, numbers: ArrayLike, bounds: Bounds | None = None) -> Models:
        """From numbers ``[seeds, rows]``.

        Raises:
            ValueError: there are none.
        """
        values = np.asarray(numbers, dtype=np.float64)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"numbers of shape [seeds, rows] are needed, not {values.shape}")
        seeds, rows = values.shape
        of_rows, of_seeds = values.mean(axis=0), values.mean(axis=1)
        if seeds == 1 or rows == 1:
            between = float(of_seeds.var(ddof=1)) if seeds > 1 else 0.0
            return cls(of_rows, of_seeds, between, 0.0, bounds)
        rest = values - of_rows
        rest -= (of_seeds - of_seeds.mean())[:, None]
        noise = float(np.einsum("sr,sr->", rest, rest)) / ((seeds - 1) * (rows - 1)) / rows
        return cls(of_rows, of_seeds, float(of_seeds.var(ddof=1)), noise, bounds)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.of_seeds)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.of_rows)

    @property
    def mean(self) -> float:
        """Over rows and seeds."""
        return float(self.of_seeds.mean())


@dataclass(frozen=True)
class Common:
    """The variance between seeds that the methods of a report have in common.

    Attributes:
        between: mean of the methods' `Models.between`, capped so that none counts for much more than the others.
        component: the same without the noise, at least 0.
        degrees: degrees of freedom.
    """

    between: float
    component: float
    degrees: int


def common_variance(models: Iterable[Models]) -> Common | None:
    """The variance of all methods with several seeds; None if there are none."""
    from scipy.stats import chi2

    known = [one for one in models if one.seeds > 1]
    if not known:
        return None
    degrees = np.array([one.seeds - 1 for one in known], dtype=np.float64)
    between = np.array([one.between for one in known])
    # A variance on one or two degrees of freedom is far below its expectation half of the time.
    typical = float(np.median(between / (chi2.ppf(0.5, degrees) / degrees)))
    shares = degrees / degrees.sum()
    capped = float((np.minimum(between, _CAP * typical) * shares).sum())
    noise = float((np.array([one.noise for one in known]) * shares).sum())
    return Common(capped, max(capped - noise, 0.0), int(degrees.sum()))


@dataclass(frozen=True)
class Variance:
    """A variance, and half of the variance of that estimate, as needed for Satterthwaite's degrees of freedom."""

    value: float
    spread: float

    def degrees(self) -> float:
        """Degrees of freedom (Satterthwaite 1946)."""
        return self.value**2 / self.spread if self.spread > 0 else float("inf")

    def __add__(self, other: Variance) -> Variance:
        return Variance(self.value + other.value, self.spread + other.spread)


def variance_of_seeds(parts: Iterable[Models], common: Common | None) -> Variance:
    """What the seeds add to the variance of a sum or difference of the means of methods with several seeds each.

    It is the methods' own, but no less than what is common to all methods of the report.
    """
    parts = list(parts)
    own = max(sum((one.between - one.noise) / one.seeds for one in parts), 0.0)
    if common is not None:
        factor = sum(1 / one.seeds for one in parts)
        if common.component * factor > own:
            return Variance(common.component * factor, (common.between * factor) ** 2 / common.degrees)
    return Variance(own, _CAUTION * sum((one.between / one.seeds) ** 2 / (one.seeds - 1) for one in parts))
