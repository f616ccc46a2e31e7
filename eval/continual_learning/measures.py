"""What a matrix of scores says about forgetting.

References:
    Lopez-Paz, D. and Ranzato, M. (2017). Gradient episodic memory for continual learning. NeurIPS (the matrix, backward
        transfer).
    Chaudhry, A. et al. (2018). Riemannian walk for incremental learning. ECCV (forgetting).
    Wolczyk, M. et al. (2021). Continual World. NeurIPS (forward transfer against training on a stage alone).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..statistics import Interval, seeds_interval

#: a row per number of stages learned, a column per place in the order; None where there is no score
Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Measure:
    """One number of a matrix.

    Attributes:
        name: as it is shown.
        explained: what it is, in a sentence.
        of: gives it for a matrix, and the scores of adapters that were trained on each stage alone; None where the
            matrix does not say it.
        signed: whether it is a difference that is above 0 where it is better, or worse (`a_loss`), whatever the metric.
        a_loss: whether lower is better.
    """

    name: str
    explained: str
    of: Callable[[Matrix, Sequence[float], bool], float | None]
    signed: bool = False
    a_loss: bool = False


def final_average(matrix: Matrix, alone: Sequence[float], higher: bool) -> float | None:
    """Mean score of all stages at the end."""
    return _mean(matrix[-1])


def average_on_the_way(matrix: Matrix, alone: Sequence[float], higher: bool) -> float | None:
    """Mean over the stages of the mean score of those learned so far."""
    if len(matrix) < 2:
        return None
    return _mean([_mean(row[: learned + 1]) for learned, row in enumerate(matrix)])


def backward_transfer(matrix: Matrix, alone: Sequence[float], higher: bool) -> float | None:
    """Mean of what later stages have added to the score of an earlier one since it was learned."""
    if len(matrix) < 2:
        return None
    return _mean([_better(matrix[-1][place], matrix[place][place], higher) for place in range(len(matrix) - 1)])


def forgetting(matrix: Matrix, alone: Sequence[float], higher: bool) -> float | None:
    """Mean of what an earlier stage has lost at the end of the best score that it had."""
    if len(matrix) < 2:
        return None
    lost = []
    for place in range(len(matrix) - 1):
        before = [row[place] for row in matrix[place:-1]]
        gains = [_better(matrix[-1][place], one, higher) for one in before]
        lost.append(None if None in gains else -min(gain for gain in gains if gain is not None))
    return _mean(lost)


def forward_transfer(matrix: Matrix, alone: Sequence[float], higher: bool) -> float | None:
    """Mean of how much better a stage is just after it was learned than where it is learned alone."""
    if len(matrix) < 2:
        return None
    return _mean([_better(matrix[place][place], alone[place], higher) for place in range(1, len(matrix))])


MEASURES: tuple[Measure, ...] = (
    Measure("average at the end", "mean score of all stages once the last is learned", final_average),
    Measure("average on the way", "mean, over the steps, of the mean score of the stages so far", average_on_the_way),
    Measure(
        "forgetting",
        "what an earlier stage has lost at the end of its best score, on average",
        forgetting,
        signed=True,
        a_loss=True,
    ),
    Measure(
        "backward transfer", "what later stages added to an earlier one, on average", backward_transfer, signed=True
    ),
    Measure(
        "forward transfer",
        "how much better a stage is just after it was learned than an adapter for it alone, on average",
        forward_transfer,
        signed=True,
    ),
)


@dataclass(frozen=True)
class Value:
    """A measure of one strategy over all orders and seeds.

    Attributes:
        mean: over the sequences.
        interval: 95 % t interval of the mean, over orders (or over seeds, if there is one order); None for one.
        difference: mean of the paired differences from the baseline; None of the baseline itself.
        difference_interval: its 95 % interval.
        sequences: number of pairs of order and seed.
    """

    mean: float
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    sequences: int


def summary(values: Mapping[tuple[int, int], float], baseline: Mapping[tuple[int, int], float] | None) -> Value:
    """A measure by order and seed, made one.

    Orders are what the interval is over: the seeds of an order are averaged first. With one order it is over seeds.

    Args:
        values: by number of the order and seed.
        baseline: the same of the baseline; None for the baseline itself.
    """
    units = _units(values)
    found = Value(math.fsum(units) / len(units), seeds_interval(units), None, None, len(values))
    if baseline is None:
        return found
    shared = {key: values[key] - baseline[key] for key in values if key in baseline}
    if not shared:
        return found
    differences = _units(shared)
    mean = math.fsum(differences) / len(differences)
    return Value(found.mean, found.interval, mean, seeds_interval(differences), len(values))


def _units(values: Mapping[tuple[int, int], float]) -> list[float]:
    """The numbers that an interval is over: by order if there are several, else by seed."""
    orders = sorted({order for order, _ in values})
    if len(orders) == 1:
        return [values[key] for key in sorted(values)]
    by_order = [[value for (one, _), value in sorted(values.items()) if one == order] for order in orders]
    return [math.fsum(own) / len(own) for own in by_order]


def _better(now: float | None, then: float | None, higher: bool) -> float | None:
    """How much better a score has become; None where one is missing."""
    if now is None or then is None:
        return None
    return now - then if higher else then - now


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean; None where one is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
