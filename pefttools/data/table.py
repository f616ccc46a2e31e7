"""One table of rows, and how a source becomes one."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.data.arrow_rows import RowCodec
from pefttools.data.hub import from_hub
from pefttools.data.mapped import SMALL, Chosen, forget, found, gathered, kept
from pefttools.data.readers import files_of, read_file
from pefttools.data.readers.opening import kind_of
from pefttools.errors import DataError, UnknownNameError
from pefttools.files import sha256_file
from pefttools.packages import is_package_reference, package_path

Row = dict[str, Any]
#: of cached rows; another one where a reader gives other rows for the same file
_FORMAT = 2

#: a column inside a text that joins several, e.g. "{passage} {question}"
_COLUMN_IN_TEXT = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Table:
    """Rows with the place that they came from.

    Attributes:
        source: file or data set, as the user wrote it.
        rows: one dict per row, by the names of `columns`.
        columns: role that a task gives a column -> name of the column in the source.
        numbers: row number in the source (from 1), for messages.
        notes: what is odd about the source.
    """

    source: str
    rows: Sequence[Row]
    columns: dict[str, str]
    numbers: Sequence[int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, role: str) -> list[Any]:
        """All values of the column that plays `role`."""
        return [row[role] for row in self.rows]

    def error(self, index: int, role: str, problem: str, *, hint: str | None = None) -> DataError:
        """An error about one cell, with file, row and column."""
        return DataError(
            f"{self.source}, row {self.numbers[index]}, column {self.columns.get(role, role)!r}: {problem}", hint=hint
        )

    def take(self, indices: Sequence[int]) -> Table:
        """The rows at `indices`, in that order."""
        numbers = array("q", (self.numbers[index] for index in indices))
        rows = gathered(self.rows, indices) if len(indices) <= SMALL else Chosen(self.rows, indices)
        return Table(self.source, rows, self.columns, numbers)

    def digest(self) -> str:
        """sha256 over the rows."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
            # half of a character, which JSON may hold, has no UTF-8 of its own
            digest.update((f"\n{line}" if index else line).encode(errors="surrogatepass"))
        return digest.hexdigest()


def read_table(
    source: str,
    roles: dict[str, bool],
    columns: dict[str, str],
    *,
    split: str = "train",
    delimiter: str | None = None,
) -> Table:
    """Read rows and give their columns the names of the task's roles.

    Args:
        source: a file (csv, tsv, jsonl, json, parquet, arrow, feather, xlsx; the texts also packed as gz, zst or zip),
            a folder or a pattern of such files, a ``package:`` reference to one, or a hub data set ``ORG/NAME``,
            ``ORG/NAME:CONFIG`` or ``ORG/NAME:CONFIG@SPLIT``.
        roles: role -> whether it must be there, e.g. ``{"text": True, "pair": False}``.
        columns: role -> column name, where they differ.
        split: split of a hub data set where the source names none.
        delimiter: between the cells of a csv file; None: a comma, or what its header shows.

    Raises:
        DataError: the file can't be read, or a column is missing.
    """
    for role in columns:
        if role not in roles:
            raise UnknownNameError("column role", role, roles, where="data.columns")
    notes: list[str] = []
    stream = iter(_rows(source, split, delimiter, notes))
    first = next(stream, None)
    if first is None:
        raise DataError(f"{source} has no rows")
    chosen, parts = _find_columns(source, first, roles, columns)
    codec = RowCodec(list(chosen))
    key = _key(source, chosen, delimiter)
    rows = None if key is None else found(key, codec)
    if rows is None:
        mapped = _with_roles(source, itertools.chain([first], stream), chosen, parts)
        rows = kept(mapped, lambda _: codec, key)
        if notes and key is not None:
            forget(key)  # so that the next reader says them too
    return Table(source, rows, chosen, range(1, len(rows) + 1), tuple(notes))


def column_names(source: str, delimiter: str | None = None) -> list[str]:
    """Names of the columns of a data source, from its first row."""
    return list(next(iter(_rows(source, "test", delimiter)), {}))


def _rows(source: str, split: str, delimiter: str | None, notes: list[str] | None = None) -> Iterable[Row]:
    files = _files(source)
    if files is None:
        return from_hub(source, split)
    names = [source] if len(files) == 1 else [str(path) for path in files]
    return itertools.chain.from_iterable(
        read_file(path, name, delimiter, notes) for path, name in zip(files, names, strict=True)
    )


def _files(source: str) -> list[Path] | None:
    return [package_path(source)] if is_package_reference(source) else files_of(source)


def _find_columns(
    source: str, row: Row, roles: dict[str, bool], columns: dict[str, str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Role -> column, or text with columns in it, and role -> all columns that it takes."""
    present = row.keys()
    chosen: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for role, required in roles.items():
        name = columns.get(role, role)
        needed = [name] if name in present else _COLUMN_IN_TEXT.findall(name) or [name]
        missing = [column for column in needed if column not in present]
        if not missing:
            chosen[role] = name
            parts[role] = needed
        elif required or role in columns:
            raise DataError(
                f"{source} has no column {missing[0]!r} for the role {role!r}",
                hint=f"It has: {', '.join(map(repr, present))}. Map one with data.columns.{role}=NAME.",
            )
    return chosen, parts


def _with_roles(source: str, rows: Iterable[Row], chosen: dict[str, str], parts: dict[str, list[str]]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        try:
            yield {role: _value(row, name, parts[role]) for role, name in chosen.items()}
        except KeyError as error:
            raise DataError(f"{source}, row {number}: no column {error.args[0]!r}") from error


def _key(source: str, chosen: dict[str, str], delimiter: str | None) -> str | None:
    """Names the rows of files by their content and by what is read of it; None where there are no files."""
    files = _files(source)
    if files is None:
        return None
    said = json.dumps([_FORMAT, [(kind_of(path), sha256_file(path)) for path in files], chosen, delimiter])
    return hashlib.sha256(said.encode()).hexdigest()


def _value(row: Row, name: str, parts: list[str]) -> Any:
    """A cell, or several in a text."""
    if parts == [name]:
        return row[name]
    cells = {part: str(row[part]) for part in parts}
    return _COLUMN_IN_TEXT.sub(lambda match: cells[match[1]], name)
