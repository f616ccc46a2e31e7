"""How often a report's verdicts are wrong, and how often they find a difference: a simulation.

Each report compares some methods with a baseline, several seeds of each on the same rows. A row is answered correctly
if a sum of normal variables is positive: how hard the row is for all models, for the method, for the one model, and how
good the model's seed is. Their variances are such that two seeds of a method disagree on 8 % of the rows, as
measured on BANKING77 (87 % right). All numbers are drawn anew for each report.

    python benchmarks/verdicts.py            # the whole table, about ten minutes
    python benchmarks/verdicts.py --quick    # its corners
    python benchmarks/verdicts.py --json     # one object at the end
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from pefttools.eval.statistics import Comparison, Models, compare, value_interval

#: share of right answers, and shares of the variance of the row, of the method on the row, and of the model on the row
RIGHT = 0.88
SHARES = (0.78, 0.08, 0.14)
#: points by which a method is better in the cases for power
SHIFT = 1.5


@dataclass(frozen=True)
class Cell:
    """The results of many reports.

    Attributes:
        seeds: of each method.
        rows: of the test split.
        deviation: standard deviation between seeds, in points.
        methods: compared with the baseline.
        reports: that were simulated.
        false: share of reports on equal methods that call at least one better or worse.
        coverage: share of the differences' intervals that hold the true difference, on equal and on better methods.
        power: share of better methods that are called so.
        score_coverage: share of the scores' own intervals that hold the true score.
    """

    seeds: int
    rows: int
    deviation: float
    methods: int
    reports: int
    false: float
    coverage: float
    power: float
    score_coverage: float


def answers(
    generator: np.random.Generator, seeds: int, rows: int, deviation: float, methods: int, shift: float
) -> NDArray[np.bool_]:
    """Right answers ``[1 + methods, seeds, rows]``: a baseline's, and of methods that are `shift` points better."""
    of_row, of_method, of_model = np.sqrt(SHARES)
    spread = deviation / 100 / norm.pdf(norm.ppf(RIGHT))

    def draw(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, dtype=np.float32)

    good = np.full((1 + methods, 1, 1), norm.ppf(RIGHT + shift / 100), np.float32)
    good[0] = norm.ppf(RIGHT)
    good = good * np.float32(np.sqrt(1 + spread**2)) + draw(1 + methods, seeds, 1) * np.float32(spread)
    row = draw(1, 1, rows) * np.float32(of_row) + draw(1 + methods, 1, rows) * np.float32(of_method)
    found: NDArray[np.bool_] = good + row + draw(1 + methods, seeds, rows) * np.float32(of_model) > 0
    return found


def report(right: NDArray[np.bool_]) -> tuple[list[Comparison], list[tuple[float, float]]]:
    """The comparisons and the scores' intervals of one report."""
    models = [Models.of(one, (0.0, 1.0)) for one in right]
    found, common = compare(dict(enumerate(models[1:])), models[0], margin=0.01)
    intervals = [value_interval(one, common) for one in models]
    return list(found.values()), [(one.low, one.high) for one in intervals]


def simulate(seeds: int, rows: int, deviation: float, methods: int, reports: int, random: int = 0) -> Cell:
    """One cell of the table."""
    generator = np.random.default_rng([random, seeds, rows, round(10 * deviation), methods])
    false, power, inside, scored = [], [], [], []
    for _ in range(reports):
        found, intervals = report(answers(generator, seeds, rows, deviation, methods, 0.0))
        false.append(any(one.verdict in ("better", "worse") for one in found))
        inside += [one.interval.contains_zero for one in found]
        scored += [low <= RIGHT <= high for low, high in intervals]
        found, _ = report(answers(generator, seeds, rows, deviation, methods, SHIFT))
        power += [one.verdict == "better" for one in found]
        inside += [one.interval.low <= SHIFT / 100 <= one.interval.high for one in found]
    figures = (float(np.mean(one)) for one in (false, inside, power, scored))
    return Cell(seeds, rows, deviation, methods, reports, *figures)


def seconds_of_a_million_rows() -> float:
    """Seconds for two methods with three seeds each on a million rows."""
    numbers = np.random.default_rng(0).random((2, 3, 1_000_000))
    start = time.perf_counter()
    found, common = compare({"method": Models.of(numbers[0])}, Models.of(numbers[1]))
    value_interval(Models.of(numbers[0]), common)
    assert found["method"].rows == 1_000_000
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the corners of the table, with fewer reports")
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    arguments = parser.parse_args()
    grid = ((2, 3, 5, 10), (200, 1000, 3000), (0.0, 0.5, 1.0, 2.0), (1, 8))
    if arguments.quick:
        grid = ((2, 3, 5), (200, 3000), (0.5, 2.0), (1, 7))
    cells = []
    print(
        "| seeds | rows | between seeds, points | methods | false verdicts | coverage | power | the score's coverage |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for place in itertools.product(*grid):
        cell = simulate(*place, reports=200 if arguments.quick else 1000)
        cells.append(cell)
        print(
            f"| {cell.seeds} | {cell.rows:,} | {cell.deviation:g} | {cell.methods} | {cell.false:.1%} | "
            f"{cell.coverage:.1%} | {cell.power:.0%} | {cell.score_coverage:.1%} |",
            flush=True,
        )
    seconds = seconds_of_a_million_rows()
    print(f"\nTwo methods, three seeds each, a million rows: {seconds:.2f} s")
    if arguments.json:
        print(json.dumps({"rows": [asdict(cell) for cell in cells], "million_rows_seconds": seconds}))


if __name__ == "__main__":
    main()
