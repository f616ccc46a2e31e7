"""What the models of a method were measured on, how they did there, and how certain that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pefttools.metrics import Measure

from ..records import RunRecord
from ..statistics import Common, Interval, Models, seeds_interval, value_interval


def models_of(
    values: Mapping[int, NDArray[np.float64]], runs: Sequence[RunRecord], like: Sequence[RunRecord], measure: Measure
) -> Models | None:
    """The models of a method that were measured on the rows of the baseline; None if there are none.

    Args:
        values: seed -> each row's number.
        runs: of the method.
        like: runs of the baseline, or of the method itself if there is no baseline.
        measure: what the numbers mean.
    """
    on = rows_of(like)
    known = [values[run.seed] for run in runs if run.seed in values and measured_on(run) == on]
    known = [one for one in known if len(one)]
    if not known:
        return None
    rows = Counter(map(len, known)).most_common(1)[0][0]
    return Models.of(np.stack([one for one in known if len(one) == rows]), measure.bounds)


def rows_of(runs: Sequence[RunRecord]) -> str | None:
    """Digest of the rows that most of some runs were measured on."""
    found = Counter(measured_on(run) for run in runs if run.status == "ok")
    return found.most_common(1)[0][0] if found else None


def measured_on(run: RunRecord) -> str | None:
    """Digest of the rows that a run was measured on."""
    return run.data.get("test" if run.test else "validation")


def interval_of(
    done: Sequence[RunRecord], scores: Sequence[float], models: Models | None, common: Common | None
) -> tuple[Interval | None, str]:
    """Over rows and seeds if each row's number is known; otherwise over seeds."""
    if not scores:
        return None, ""
    if models is not None and models.seeds == len(scores) and np.allclose(models.of_seeds, scores, rtol=0, atol=1e-9):
        rows = "test rows" if done[0].test else "validation rows"
        return value_interval(models, common), rows if models.seeds == 1 else f"seeds and {rows}"
    interval = seeds_interval(scores)
    bounds = done[0].measure.bounds
    if interval is not None and bounds is not None:
        # The t interval of two seeds can easily be wider than what is possible.
        high = interval.high if bounds[1] is None else min(bounds[1], interval.high)
        interval = Interval(max(bounds[0], interval.low), high)
    return interval, "seeds" if interval is not None else ""
