"""Train, validation and test rows of one recipe."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pefttools.data.config import DataConfig, Split
from pefttools.data.divide import Strata, divide, draw, draw_per_class
from pefttools.data.reading import read_table
from pefttools.data.table import Table
from pefttools.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The three tables of a recipe; `test` is None if the recipe names none."""

    train: Table
    validation: Table
    test: Table | None
    #: notes on how they were made
    notes: tuple[str, ...] = ()
    #: the same rows as they were read, if something was added to them
    given: Splits | None = None

    def digests(self) -> dict[str, str]:
        """sha256 of each split's rows, as they were read."""
        return {name: table.digest() for name, table in (self.given or self).tables().items()}

    def tables(self) -> dict[str, Table]:
        """The splits by name."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: table for name, table in tables.items() if table is not None}


def load_splits(
    config: DataConfig, roles: dict[str, bool], strata: Strata | None = None, files_in: Collection[str] = ()
) -> Splits:
    """Read all splits of a recipe.

    Args:
        config: the `data` part.
        roles: roles of the task.
        strata: gives each row's stratum, whose shares splits and limits keep; None if rows are drawn regardless.
        files_in: roles whose cells may be the bytes of a file.

    Raises:
        DataError: see `read_table`; too few rows, labels or groups to divide.
    """
    notes: list[str] = []
    grouped = config.group is not None
    train = _read(config.train, roles, config, "train", files_in)
    notes += train.notes
    strata = strata if strata is not None and strata(next(iter(train.rows))) is not None else None
    test = None
    if isinstance(config.test, float):
        train, test, said = divide(train, config.test, config.seed, strata, grouped, "test")
        notes += said
    elif config.test is not None:
        test = _read(config.test, roles, config, "test", files_in)
        notes += test.notes
    if isinstance(config.validation, float):
        train, validation, said = divide(train, config.validation, config.seed, strata, grouped, "validation")
        notes += said
    else:
        validation = _read(config.validation, roles, config, "validation", files_in)
        notes += validation.notes
    found: dict[Split, Table] = {"train": train, "validation": validation}
    if test is not None:
        found["test"] = test
    for split, table in found.items():
        if (limit := config.limit.get(split)) is not None:
            drawn = draw if isinstance(limit, int) else draw_per_class
            count = limit if isinstance(limit, int) else int(limit.partition(" ")[0])
            found[split], said = drawn(table, count, config.seed + 1, strata, split)
            notes += said
    if grouped:
        notes += _shared_groups(found)
    if strata is not None and "train" in config.limit:
        notes += _without_lost_strata(found, {str(strata(row)) for row in train.rows}, strata)
    return Splits(found["train"], found["validation"], found.get("test"), tuple(dict.fromkeys(notes)))


def _without_lost_strata(tables: dict[Split, Table], before: set[str], strata: Strata) -> list[str]:
    """Leave out rows of validation and test whose labels a limit has removed from training."""
    lost = before - {str(strata(row)) for row in tables["train"].rows}
    notes: list[str] = []
    if not lost:
        return notes
    for split, table in tables.items():
        kept = [index for index, row in enumerate(table.rows) if str(strata(row)) not in lost]
        if len(kept) < len(table):
            notes.append(f"{split}: {len(table) - len(kept):,} rows whose labels data.limit leaves out of training")
            tables[split] = table.take(kept)
    return notes


def _shared_groups(tables: dict[Split, Table]) -> list[str]:
    """Groups that are in two splits, as may happen if these are given as files."""
    notes: list[str] = []
    seen: dict[str, set[str]] = {}
    for split, table in tables.items():
        groups = {str(row["group"]) for row in table.rows}
        for other, earlier in seen.items():
            if shared := len(groups & earlier):
                notes.append(f"{split}: {shared} of {len(groups)} groups (data.group) are also in {other}")
        seen[split] = groups
    return notes


def _read(
    source: str | list[str], roles: dict[str, bool], config: DataConfig, split: Split, files_in: Collection[str]
) -> Table:
    if not source:
        raise DataError(f"data.{split} is an empty list")
    columns = dict(config.columns)
    if config.group is not None:
        roles, columns = {**roles, "group": True}, {**columns, "group": config.group}
    return read_table(source, roles, columns, split=split, delimiter=config.delimiter, files_in=files_in)
