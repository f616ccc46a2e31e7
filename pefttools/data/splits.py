"""Train, validation and test rows of one recipe."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pefttools.data.config import DataConfig, Split
from pefttools.data.table import Table, read_table
from pefttools.errors import DataError


@dataclass(frozen=True)
class Splits:
    """The three tables of a recipe; `test` is None where the recipe names none."""

    train: Table
    validation: Table
    test: Table | None

    def digests(self) -> dict[str, str]:
        """sha256 of each split's rows."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: table.digest() for name, table in tables.items() if table is not None}


def load_splits(config: DataConfig, roles: dict[str, bool]) -> Splits:
    """Read all splits of a recipe.

    Raises:
        DataError: see `read_table`.
    """
    train = _read(config.train, roles, config, "train")
    test = None
    if isinstance(config.test, float):
        train, test = _divide(train, config.test, config.seed)
    elif config.test is not None:
        test = _read(config.test, roles, config, "test")
    if isinstance(config.validation, float):
        train, validation = _divide(train, config.validation, config.seed)
    else:
        validation = _read(config.validation, roles, config, "validation")
    return Splits(
        _limited(train, config, "train"),
        _limited(validation, config, "validation"),
        None if test is None else _limited(test, config, "test"),
    )


def _read(source: str | list[str], roles: dict[str, bool], config: DataConfig, split: Split) -> Table:
    sources = [source] if isinstance(source, str) else source
    if not sources:
        raise DataError(f"data.{split} is an empty list")
    tables = [read_table(one, roles, config.columns, split=split) for one in sources]
    first = tables[0]
    for table in tables[1:]:
        if table.columns.keys() != first.columns.keys():
            raise DataError(
                f"{table.source} has the columns {sorted(table.columns)}, {first.source} {sorted(first.columns)}"
            )
    if len(tables) == 1:
        return first
    return Table(
        " + ".join(table.source for table in tables),
        [row for table in tables for row in table.rows],
        first.columns,
        [number for table in tables for number in table.numbers],
    )


def _divide(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    order = list(range(len(table)))
    random.Random(seed).shuffle(order)
    count = max(1, round(share * len(table)))
    if count >= len(table):
        raise DataError(f"{table.source} has only {len(table)} rows: too few to split {share:g} of them off")
    return table.take(sorted(order[count:])), table.take(sorted(order[:count]))


def _limited(table: Table, config: DataConfig, split: Split) -> Table:
    limit = config.limit.get(split)
    if limit is None or limit >= len(table):
        return table
    return table.take(sorted(random.Random(config.seed + 1).sample(range(len(table)), limit)))
