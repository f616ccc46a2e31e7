"""Parts of a table drawn by a seed: with the labels in proportion, or with whole groups."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Hashable, Sequence

from pefttools.data.columns import Row
from pefttools.data.table import Table
from pefttools.errors import DataError

Strata = Callable[[Row], Hashable | None]


def divide(
    table: Table, share: float, seed: int, strata: Strata | None, group: bool, split: str
) -> tuple[Table, Table, list[str]]:
    """A table without a part of it, the part, and notes on it.

    Args:
        table: the rows.
        share: size of the part, as a share.
        seed: seed of the drawing.
        strata: gives each row's stratum, e.g. its label; every stratum keeps its share in both, and one that occurs
            once stays in the table. None if rows are drawn regardless.
        group: whether rows with the same value in the column of the role ``group`` stay together.
        split: name of the part, for messages.

    Raises:
        DataError: too few rows, labels or groups to divide.
    """
    places = max(1, round(share * len(table)))
    if places >= len(table):
        raise DataError(f"{table.source} has only {len(table)} rows: too few to split off {share:g} of them")
    if group:
        chosen, notes = _groups(table, places, seed, split)
    else:
        chosen, notes = _rows(table, places, seed, strata, split)
    picked = bytearray(len(table))  # a byte per row: there may be many
    for index in chosen:
        picked[index] = 1
    rest, part = (array("q", (index for index, one in enumerate(picked) if one == is_in)) for is_in in (0, 1))
    return table.take(rest), table.take(part), notes


def draw_per_class(table: Table, count: int, seed: int, strata: Strata | None, split: str) -> tuple[Table, list[str]]:
    """At most that many rows of every stratum; a note names those that have fewer.

    Raises:
        DataError: the rows have no strata.
    """
    if strata is None:
        raise DataError(
            f"data.limit.{split}={count} per class: the rows of {table.source} have no classes",
            hint="Give a number of rows.",
        )
    members = _members(table, strata, random.Random(seed))
    few = sum(len(rows) < count for rows in members)
    notes = [f"{split}: {few} of {len(members)} labels have fewer than {count} rows"] if few else []
    return table.take(sorted(row for rows in members for row in rows[:count])), notes


def draw(table: Table, count: int, seed: int, strata: Strata | None, split: str) -> tuple[Table, list[str]]:
    """At most that many rows, every stratum with its share and, if there is room, at least one row."""
    if count >= len(table):
        return table, []
    generator = random.Random(seed)
    if strata is None:
        return table.take(sorted(generator.sample(range(len(table)), count))), []
    members = _members(table, strata, generator)
    if count < len(members):
        rows = table.take(sorted(generator.sample(range(len(table)), count)))
        return rows, [f"{split}: data.limit={count} is fewer than the {len(members)} labels: rows are drawn at random"]
    sizes = [len(rows) for rows in members]
    parts = _shares(sizes, count, [1] * len(sizes), sizes)
    return table.take(sorted(row for rows, part in zip(members, parts, strict=True) for row in rows[:part])), []


def _rows(table: Table, places: int, seed: int, strata: Strata | None, split: str) -> tuple[Sequence[int], list[str]]:
    generator = random.Random(seed)
    if strata is None:
        order = list(range(len(table)))
        generator.shuffle(order)
        return order[:places], []
    members = _members(table, strata, generator)
    single = sum(len(rows) == 1 for rows in members)
    several = [rows for rows in members if len(rows) > 1]
    if not several:
        raise DataError(
            f"{table.source}: no label occurs twice, so {split} would have labels that training lacks",
            hint=f"Provide separate rows in data.{split}.",
        )
    notes = [f"labels that occur once in {table.source}, and stay in training: {single}"] if single else []
    places = min(places, sum(len(rows) - 1 for rows in several))
    if places < len(several):
        notes.append(f"{split}: {places} rows for {len(several)} labels: not every label can occur")
        order = [row for rows in several for row in rows[1:]]  # one row of each label stays
        generator.shuffle(order)
        return order[:places], notes
    sizes = [len(rows) for rows in several]
    parts = _shares(sizes, places, [1] * len(sizes), [size - 1 for size in sizes])
    return [row for rows, part in zip(several, parts, strict=True) for row in rows[:part]], notes


def _groups(table: Table, places: int, seed: int, split: str) -> tuple[Sequence[int], list[str]]:
    members: dict[str, list[int]] = {}
    for index, row in enumerate(table.rows):
        if row["group"] is None or not str(row["group"]).strip():
            raise table.error(index, "group", "the group is empty", hint="Fill it, or give the row a group of its own.")
        members.setdefault(str(row["group"]), []).append(index)
    names = sorted(members)
    if len(names) < 2:
        raise DataError(f"{table.source}: data.group has only one value: its rows can't be divided")
    random.Random(seed).shuffle(names)
    chosen: list[int] = []
    taken = 0
    for name in names:
        if (
            len(chosen) + len(members[name]) <= places
        ):  # a large group would take the place of many small ones, or too much of training
            chosen += members[name]
            taken += 1
    if not chosen:
        raise DataError(
            f"{table.source}: no group is small enough for the {places} rows of {split}: the smallest has "
            f"{min(map(len, members.values()))}",
            hint=f"Give data.{split} a larger share, or separate rows.",
        )
    return chosen, [f"{split}: {len(chosen):,} rows of {taken:,} of {len(names):,} groups (data.group)"]


def _members(table: Table, strata: Strata, generator: random.Random) -> list[array[int]]:
    """Rows of each stratum, shuffled; strata in an order that does not depend on the rows'."""
    found: dict[Hashable | None, array[int]] = {}
    for index, row in enumerate(table.rows):
        found.setdefault(strata(row), array("q")).append(index)
    members = [found[key] for key in sorted(found, key=str)]
    for rows in members:
        generator.shuffle(rows)
    return members


def _shares(sizes: Sequence[int], count: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Whole numbers near the sizes' shares of a count, which they add up to, between bounds that allow it."""
    total = sum(sizes)
    exact = [size * count / total for size in sizes]
    parts = [min(max(int(part), low), high) for part, low, high in zip(exact, least, most, strict=True)]
    while (lacking := count - sum(parts)) != 0:
        step = 1 if lacking > 0 else -1
        open_ = [index for index, part in enumerate(parts) if (part < most[index] if step > 0 else part > least[index])]
        # those that are furthest from their share first
        open_.sort(key=lambda index: (step * (parts[index] - exact[index]), index))
        for index in open_[: abs(lacking)]:
            parts[index] += step
    return parts
