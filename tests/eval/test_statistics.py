"""Intervals and tests: against scipy, by their properties, and by how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from benchmarks.coverage import POPULATION, Case, cases, coverage
from benchmarks.verdicts import simulate
from pefttools.eval.statistics import (
    Comparison,
    Models,
    common_variance,
    compare,
    holm,
    seeds_interval,
    share_interval,
    value_interval,
)

SHARE = (0.0, 1.0)
NORMAL = float(stats.norm.ppf(0.975))


def _numbers(seeds: int, rows: int, seed: int = 0, share: float = 0.8) -> np.ndarray:
    """Right and wrong answers, alike in part from seed to seed."""
    generator = np.random.default_rng(seed)
    row = generator.random(rows)
    return np.array([(0.7 * row + 0.3 * generator.random(rows)) < share * 0.9 for _ in range(seeds)], dtype=float)


def _one(method: np.ndarray, baseline: np.ndarray, margin: float | None = 0.01) -> Comparison:
    found, _ = compare({"method": Models.of(method, SHARE)}, Models.of(baseline, SHARE), margin)
    return found["method"]


@given(arrays(float, st.tuples(st.integers(2, 6), st.integers(2, 40)), elements=st.floats(-5, 5, width=32)))
def test_mean_squares_are_those_of_the_two_way_layout(values: np.ndarray) -> None:
    models = Models.of(values)
    seeds, rows = values.shape
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    assert models.between == pytest.approx(values.mean(1).var(ddof=1), abs=1e-9)
    assert models.noise == pytest.approx((rest**2).sum() / (seeds - 1) / (rows - 1) / rows, abs=1e-9)
    assert models.mean == pytest.approx(values.mean(), abs=1e-9)
    # whatever is added to a row, or to all of them, is not part of the noise
    shifted = Models.of(values + np.arange(rows) * 10)
    assert shifted.noise == pytest.approx(models.noise, abs=1e-6)
    assert shifted.between == pytest.approx(models.between, abs=1e-6)


def test_what_seeds_add_is_estimated_rightly() -> None:
    """A layout of known parts: the mean of the estimates is the truth."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(400):
        values = generator.normal(0, 0.5, (3, 1)) + generator.normal(0, 2, (1, 50)) + generator.normal(0, 1, (3, 50))
        models = Models.of(values)
        found.append((models.between - models.noise, models.noise))
    component, noise = np.mean(found, axis=0)
    assert component == pytest.approx(0.25, rel=0.15) and noise == pytest.approx(1 / 50, rel=0.05)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_t_interval_is_scipys(values: list[float]) -> None:
    interval = seeds_interval(values)
    assert interval is not None
    mean, error = float(np.mean(values)), stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error > 0 else (mean, mean)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert seeds_interval(values[:1]) is None


@given(st.integers(1, 3000), st.data())
def test_the_wilson_interval_is_scipys(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    interval = share_interval(right / rows, rows, NORMAL)
    expected = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("share", "rows"), [(0.5, 0), (1.5, 2), (-0.1, 2)])
def test_impossible_shares_are_refused(share: float, rows: int) -> None:
    with pytest.raises(ValueError, match="a share of"):
        share_interval(share, rows, NORMAL)


def test_the_interval_of_one_model_is_wilsons_but_for_the_quantile() -> None:
    right = np.array([[1.0] * 850 + [0.0] * 150])
    found = value_interval(Models.of(right, SHARE), None)
    wilson = stats.binomtest(850, 1000).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=2e-4)
    assert value_interval(Models.of(np.ones((3, 200)), SHARE), None).low == pytest.approx(
        200 / (200 + NORMAL**2), abs=1e-3
    )


def test_two_equal_scores_still_have_the_width_of_the_rows() -> None:
    right = _numbers(2, 300)
    right[1] = right[0]
    found = value_interval(Models.of(right, SHARE), None)
    alone = value_interval(Models.of(right[:1], SHARE), None)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.02)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(100, 2000))
def test_with_one_seed_the_test_is_close_to_mcnemars(wins: int, losses: int, ties: int) -> None:
    method = np.array([[1] * wins + [0] * losses + [1] * ties], dtype=float)
    baseline = np.array([[0] * wins + [1] * losses + [1] * ties], dtype=float)
    found = _one(method, baseline)
    exact = stats.binomtest(wins, wins + losses).pvalue
    middle = exact - stats.binom.pmf(wins, wins + losses, 0.5)  # the mid-p value, which is neither strict nor lax
    assert found.p == pytest.approx(1.0 if wins == losses else middle, abs=0.075)
    assert found.p >= 0.05 or exact < 0.13


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_comparisons_are_antisymmetric(ours: int, theirs: int, seed: int) -> None:
    a, b = _numbers(ours, 200, seed), _numbers(theirs, 200, seed + 1, share=0.7)
    ab, ba = _one(a, b), _one(b, a)
    assert ab.difference == pytest.approx(-ba.difference) and ab.p == pytest.approx(ba.p)
    assert ab.interval.low == pytest.approx(-ba.interval.high)
    assert ab.p_equal == pytest.approx(ba.p_equal)
    assert ab.seeds == (ours, theirs) and ab.rows == 200
    assert (ab.p < 0.05) == (not ab.interval.contains_zero), "interval and test say the same"


def test_verdicts() -> None:
    generator = np.random.default_rng(1)
    base = _numbers(3, 2000)
    better = np.where(generator.random(base.shape) < 0.3, 1.0, base)
    assert _one(better, base).verdict == "better" and _one(base, better).verdict == "worse"
    assert _one(better, base).about_methods and not _one(better[:1], base[:1]).about_methods
    assert _one(better[:1], base[:1]).verdict == "better"
    assert _one(base, base).verdict == "equal" and _one(base, base, margin=None).verdict == "inconclusive"
    few = _one(base[:, :20], base[:, :20])
    assert few.verdict == "inconclusive", "no difference on 20 rows is not a proof of equality"
    assert _one(_numbers(3, 40_000, 5), _numbers(3, 40_000, 5)[::-1]).verdict == "equal"


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "equal"), (0.004, "equal"), (0.0095, "inconclusive"), (0.03, "better")]
)
def test_equal_is_said_where_both_one_sided_tests_say_so(shift: float, verdict: str) -> None:
    """Numbers of any kind; here seeds vary by 0.001 and the margin is 0.01."""
    generator = np.random.default_rng(2)
    row = generator.normal(0, 1, (1, 4000))

    def models(mean: float) -> np.ndarray:
        return row + mean + generator.normal(0, 0.001, (3, 1)) + generator.normal(0, 0.05, (3, 4000))

    found = _one(models(shift), models(0.0))
    assert found.verdict == verdict or (verdict == "inconclusive" and found.verdict == "better")
    inside = found.interval.low > -0.01 and found.interval.high < 0.01
    assert (found.p_equal is not None and found.p_equal < 0.025) == inside, "95 % interval inside: each test at 2.5 %"


def test_rows_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="200 and 100 rows"):
        _one(_numbers(1, 200), _numbers(1, 100))
    with pytest.raises(ValueError, match="seeds, rows"):
        Models.of(np.zeros((0, 3)))


def test_seeds_that_disagree_widen_the_interval() -> None:
    base = _numbers(4, 500)
    apart = base.copy()
    apart[:2, :40], apart[2:, :40] = 0, 1
    alike = base.copy()
    alike[:, :20], alike[:, 20:40] = 0, 1
    one, other = _one(alike, base), _one(apart, base)
    assert other.difference == pytest.approx(one.difference, abs=1e-9)
    assert other.interval.high - other.interval.low > 1.5 * (one.interval.high - one.interval.low)


def test_a_method_whose_seeds_happen_to_agree_is_taken_to_vary_as_the_others() -> None:
    generator = np.random.default_rng(0)
    wild = [np.clip(_numbers(2, 500, n) + generator.normal(0, 0.2, (2, 1)), 0, 1) for n in range(4)]
    tame = _numbers(2, 500, 9)
    tame[1] = tame[0]
    models = {n: Models.of(one) for n, one in enumerate([*wild, tame])}
    many, common = compare(models, Models.of(tame))
    few, _ = compare({4: models[4]}, Models.of(tame))
    assert common is not None and common.degrees == 6 and common.component > 0
    assert many[4].interval.high > 3 * few[4].interval.high


def test_one_wild_method_does_not_widen_all_others() -> None:
    tame = [Models.of(_numbers(3, 1000, n)) for n in range(5)]
    quiet = common_variance(tame)
    wild = _numbers(3, 1000)
    wild[0] = 0
    loud = common_variance([*tame, Models.of(wild)])
    assert quiet is not None and loud is not None and loud.between < 3 * quiet.between
    assert common_variance([Models.of(_numbers(1, 10))]) is None


def test_equal_answers_bound_the_difference_by_the_number_of_rows() -> None:
    base = _numbers(1, 300)
    interval = _one(base, base).interval
    # (1 - x)^300 = 0.05: a rate above x would have shown itself at least once in 19 of 20 samples
    assert interval.high == pytest.approx(1 - 0.05 ** (1 / 300)) and interval.low == -interval.high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm(values: list[float]) -> None:
    found = holm(values)
    assert all(b >= a and b <= 1 for a, b in zip(values, found, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[i] for i in order] == sorted(found)
    assert found[order[0]] == pytest.approx(min(1.0, len(values) * values[order[0]]))


def test_holm_is_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_an_uncorrected_winner_may_be_none_among_many() -> None:
    base = np.array([[0.0] * 7 + [1.0] * 93])
    method = np.ones((1, 100))
    alone = _one(method, base)
    assert 0.005 < alone.p < 0.05 and alone.verdict == "better"
    many, _ = compare(dict.fromkeys(range(8), Models.of(method)), Models.of(base))
    assert many[0].p == pytest.approx(8 * alone.p) and many[0].verdict == "inconclusive"


SLICE = [(2, 3000, 1.0, 7), (2, 200, 2.0, 3), (3, 1000, 0.5, 7), (5, 3000, 0.5, 1), (10, 1000, 1.0, 3)]


@pytest.mark.parametrize(("seeds", "rows", "deviation", "methods"), SLICE)
def test_how_often_a_report_is_wrong(seeds: int, rows: int, deviation: float, methods: int) -> None:
    _check(seeds, rows, deviation, methods, reports=300)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("rows", [200, 1000, 3000])
@pytest.mark.parametrize("deviation", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("methods", [1, 3, 8])
def test_how_often_any_report_is_wrong(seeds: int, rows: int, deviation: float, methods: int) -> None:
    _check(seeds, rows, deviation, methods, reports=600)


def _check(seeds: int, rows: int, deviation: float, methods: int, reports: int) -> None:
    """At most 5 % of reports call equal methods unequal, 94 % of intervals hold the truth, as far as chance goes."""
    cell = simulate(seeds, rows, deviation, methods, reports)
    assert cell.false <= stats.binom.ppf(0.999, reports, 0.05) / reports
    # intervals of one report share their rows and baseline: as few as there are reports, not as many as intervals
    assert cell.coverage >= stats.binom.ppf(0.001, reports, 0.95) / reports
    assert cell.score_coverage >= stats.binom.ppf(0.001, reports, 0.95) / reports


#: of the quick test: those whose intervals are made in different ways, and what is far from a mean
QUICK = ("macro F1, 5 classes", "perplexity", "entity F1", "macro F1 of sets, 20 labels", "RMSE", "Spearman")


@pytest.mark.parametrize("case", [case for case in cases() if case.title in QUICK], ids=lambda case: case.title)
def test_intervals_of_metrics_hold_the_truth(case: Case) -> None:
    _check_coverage(case, 600, samples=200)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_intervals_of_every_metric_hold_the_truth(case: Case) -> None:
    # A macro average over 77 classes takes some 40 rows per class. Texts are left out one by one, which takes long.
    for rows in (3000,) if "77" in case.title else (600,) if case.population < POPULATION else (600, 3000):
        _check_coverage(case, rows, samples=1000)


def _check_coverage(case: Case, rows: int, samples: int) -> None:
    """At least 94 % of intervals hold the true value, as far as chance goes."""
    assert coverage(case, rows, samples) >= stats.binom.ppf(0.001, samples, 0.94) / samples
