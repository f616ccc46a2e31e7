"""Rows that were read, written to a file of their own, so that a training reads them like any others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import DataError
from pefttools.files import write_bytes_atomic
from pefttools.tasks import Task


def portable_rows(table: Table, task: Task[Any]) -> list[Row]:
    """Rows by role; a cell that names a file has its whole path."""
    files = task.files_in() & set(table.columns)
    rows = []
    for index, row in enumerate(table.rows):
        found = {role: row[role] for role in table.columns}
        for role in files:
            cell = table.resolved(index, row[role])
            found[role] = str(Path(cell).resolve()) if isinstance(cell, str) else cell
        rows.append(found)
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as parquet.

    Raises:
        DataError: a column with values of several kinds.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.Table.from_pylist(list(rows))
    except pyarrow.ArrowException as error:
        raise DataError(f"these rows can't be written to {path}: {error}") from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, sink.getvalue().to_pybytes())


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` wrote."""
    import pyarrow.parquet

    found: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return found
