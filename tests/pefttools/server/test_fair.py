"""Turns: who asks for little does not wait for who asks for much, and nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pefttools.server.fair import Turns


@dataclass(eq=False)
class Row:
    """A row that waits."""

    owner: str
    cost: float = 1.0
    number: int = 0


def _drain(turns: Turns, rows: list[Row], most: int) -> list[list[Row]]:
    batches = []
    while rows:
        batch = turns.take(rows, most, lambda _: True)
        assert batch
        batches.append(batch)
        rows = [row for row in rows if row not in batch]
    return batches


def test_one_row_does_not_wait_behind_a_flood() -> None:
    turns = Turns()
    flood = [Row("much") for _ in range(1000)]
    first = turns.take(flood, 32, lambda _: True)
    waiting = [row for row in flood if row not in first] + [Row("little")]
    assert Counter(row.owner for row in turns.take(waiting, 32, lambda _: True)) == {"much": 31, "little": 1}


def test_work_counts_and_not_rows() -> None:
    """Four rows of 10 weigh as much as one of 40."""
    rows = [Row("long", 40.0) for _ in range(50)] + [Row("short", 10.0) for _ in range(50)]
    batches = _drain(Turns(), rows, 10)
    taken = Counter(row.owner for batch in batches[:4] for row in batch)
    assert 3 <= taken["short"] / taken["long"] <= 5


def test_a_pause_saves_nothing_up() -> None:
    turns = Turns()
    for _ in range(10):
        turns.take([Row("busy", 100.0)], 1, lambda _: True)
    rows = [Row("idle", 1.0) for _ in range(500)] + [Row("busy", 1.0) for _ in range(10)]
    order = [row.owner for batch in _drain(turns, rows, 1) for row in batch]
    assert order[:300].count("busy") == 10, "what was served before a pause is forgotten"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 100)), max_size=60), st.integers(1, 9))
def test_every_row_is_taken_once_and_each_owners_in_order(asked: list[tuple[str, float]], most: int) -> None:
    rows = [Row(owner, cost, number) for number, (owner, cost) in enumerate(asked)]
    order = [row for batch in _drain(Turns(), rows, most) for row in batch]
    assert sorted(row.number for row in order) == list(range(len(rows)))
    for owner in "abcd":
        numbers = [row.number for row in order if row.owner == owner]
        assert numbers == sorted(numbers)


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 3))
def test_limits_hold(owners: list[str], most: int) -> None:
    rows = [Row(owner) for owner in owners]
    seen: set[str] = set()

    def fits(row: Row) -> bool:
        if len(seen | {row.owner}) > 2:
            return False
        seen.add(row.owner)
        return True

    batch = Turns().take(rows, most, fits)
    assert len(batch) <= most and len({row.owner for row in batch}) <= 2
    assert bool(batch) == bool(rows)
