"""Intervals and tests, against scipy and by their properties."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pefttools.eval.statistics import (
    bootstrap_interval,
    compare,
    holm,
    judge,
    mean_interval,
    sign_flip_p,
    wilson_interval,
)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_t_interval_is_scipys(values: list[float]) -> None:
    mean, interval = mean_interval(values)
    assert interval is not None
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error > 0 else (mean, mean)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 3000), st.data())
def test_the_wilson_interval_is_scipys(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    interval = wilson_interval(right, rows)
    expected = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
def test_with_one_seed_the_p_value_is_mcnemars(wins: int, losses: int, ties: int) -> None:
    signs = np.array([1] * wins + [-1] * losses + [0] * ties, dtype=np.int64)
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_flip_p(signs) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_with_several_seeds_the_p_value_is_that_of_all_flips() -> None:
    differences = np.array([2, -1, 3, 1, 0, -2, 1, 3], dtype=np.int64)
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in
            np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T]  # fmt: skip
    expected = np.mean(np.abs(sums) >= abs(differences.sum()))
    assert sign_flip_p(differences) == pytest.approx(float(expected))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_comparisons_are_antisymmetric(seed: int) -> None:
    generator = random.Random(seed)
    a = {s: [generator.random() < 0.8 for _ in range(200)] for s in range(2)}
    b = {s: [generator.random() < 0.7 for _ in range(200)] for s in range(2)}
    ab, ba = compare(a, b), compare(b, a)
    assert ab is not None and ba is not None
    assert ab.difference == pytest.approx(-ba.difference) and ab.p == pytest.approx(ba.p)
    assert ab.interval.low <= ab.difference <= ab.interval.high


def test_the_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    generator = random.Random(0)
    a = [generator.random() < 0.9 for _ in range(2000)]
    b = [generator.random() < 0.9 for _ in range(2000)]
    found = compare({0: a}, {0: b})
    assert found is not None
    signs = np.array(a, dtype=float) - np.array(b, dtype=float)
    width = 2 * 1.96 * signs.std() / 2000**0.5
    assert found.interval.high - found.interval.low == pytest.approx(width, rel=0.05)


def test_verdicts() -> None:
    generator = random.Random(1)
    base = [generator.random() < 0.8 for _ in range(1000)]
    better = [one or generator.random() < 0.5 for one in base]
    first, same = judge([compare({0: better}, {0: base}), compare({0: base}, {0: base})])
    assert first is not None and first.verdict == "better" and not first.too_wide
    assert same is not None and same.verdict == "no call" and not same.too_wide
    alike = compare({0: base[:20]}, {0: base[:20]})
    assert alike is not None and alike.too_wide, "no difference on 20 rows is no proof of equality"
    few = compare({0: base[:20]}, {0: better[:20]})
    assert few is not None and few.verdict == "no call" and few.too_wide
    assert compare({0: base}, {1: base}) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm(values: list[float]) -> None:
    found = holm(values)
    assert all(b >= a and b <= 1 for a, b in zip(values, found, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[i] for i in order] == sorted(found)
    assert found[order[0]] == pytest.approx(min(1.0, len(values) * values[order[0]]))


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert mean_interval([0.25]) == (0.25, None)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize(("right", "rows"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(right: int, rows: int) -> None:
    with pytest.raises(ValueError, match="rows right"):
        wilson_interval(right, rows)


def test_holm_is_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_an_uncorrected_winner_may_be_none_among_many() -> None:
    base = {0: [False] * 7 + [True] * 93}
    method = {0: [True] * 100}
    (alone,) = judge([compare(method, base)])
    assert alone is not None and alone.p == pytest.approx(2**-6) and alone.verdict == "better"
    first, *_ = judge([compare(method, base)] * 4)
    assert first is not None and first.p_holm == pytest.approx(4 * 2**-6) and first.verdict == "no call"


def test_only_seeds_with_as_many_rows_are_paired() -> None:
    a = {0: [True] * 5, 1: [True] * 5, 2: [True] * 4, 3: [True] * 5}
    b = {0: [False] * 5, 1: [False] * 4, 2: [False] * 4, 3: [False] * 5}
    found = compare(a, b)
    assert found is not None and found.seeds == (0, 3) and found.rows == 5 and found.difference == 1.0
    assert compare({0: []}, {0: []}) is None


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    alike = np.tile(rng.choice([-1, 0, 1], p=[0.05, 0.85, 0.1], size=500), (4, 1))
    apart = alike.copy()
    apart[:2], apart[2:] = 0, 2 * alike[2:]  # the same mean; all of it in two of four seeds
    same, different = bootstrap_interval(alike), bootstrap_interval(apart)
    assert different.high - different.low > 1.2 * (same.high - same.low)
    assert same == bootstrap_interval(alike), "a fixed seed gives the same interval again"


def test_equal_answers_bound_the_difference_by_the_number_of_rows() -> None:
    interval = bootstrap_interval(np.zeros((1, 300), dtype=np.int64))
    # (1 - x)^300 = 0.05: a rate above x would have shown itself at least once in 19 of 20 samples
    assert interval.high == pytest.approx(1 - 0.05 ** (1 / 300)) and interval.low == -interval.high
