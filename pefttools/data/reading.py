"""How files, packages and hub data sets become a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pefttools.data.arrow_rows import RowCodec
from pefttools.data.columns import Columns, MissingColumnError, Row, how_to_map
from pefttools.data.hub import from_hub
from pefttools.data.mapped import MappedItems, forget, found, kept
from pefttools.data.readers import files_of, read_file
from pefttools.data.readers.opening import kind_of
from pefttools.data.table import Table
from pefttools.errors import DataError, UnknownNameError
from pefttools.files import sha256_file
from pefttools.packages import is_package_reference, package_path

#: version of cached rows; changes when a reader gives different rows for the same file
_FORMAT = 4
#: name of a file or data set, and a function that reads it
_Part = tuple[str, Callable[[], Iterable[Row]]]


def read_table(
    source: str | Sequence[str],
    roles: Mapping[str, bool],
    columns: Mapping[str, str],
    *,
    split: str = "train",
    delimiter: str | None = None,
    files_in: Collection[str] = (),
) -> Table:
    """Read rows and give their columns the names of the task's roles.

    Args:
        source: a file (csv, tsv, jsonl, json, parquet, arrow, feather, xlsx; the text formats also as gz, zst or zip),
            a folder or a pattern of such files, a ``package:`` reference to one, or a hub data set ``ORG/NAME``,
            ``ORG/NAME:CONFIG`` or ``ORG/NAME:CONFIG@SPLIT``; several are read one after the other.
        roles: role -> whether every row must have it, e.g. ``{"text": True, "pair": False}``. One that no row has is
            left out; if some have it, it is None in the others.
        columns: role -> column name, if they differ.
        split: split of a hub data set if the source names none.
        delimiter: delimiter of a csv file; None for a comma, or what its header shows.
        files_in: roles whose cells may be the bytes of a file, such as a picture.

    Raises:
        DataError: a file can't be read, or a column is missing.
    """
    for role in columns:
        if role not in roles:
            raise UnknownNameError("column role", role, roles, where="data.columns")
    sources = [source] if isinstance(source, str) else list(source)
    files = [_files(one) for one in sources]
    notes: list[str] = []
    reading = _Reading(_parts(sources, files, split, delimiter, notes), roles, columns, files_in)
    key = _key(files, roles, columns, delimiter, files_in)
    there = None if key is None else found(key, lambda about: RowCodec(about["roles"]))
    if there is not None:
        rows, about = there
    else:
        rows = kept(reading.rows(), lambda _: RowCodec(list(roles)), key, about=reading.about)
        about = reading.about()
        rows = _only(rows, about["roles"])
        if notes and key is not None:
            forget(key)  # so that the next reader reports them too
    names = reading.names
    return Table(
        " + ".join(sources),
        rows,
        {role: columns.get(role, role) for role in about["roles"]},
        range(1, len(rows) + 1),
        tuple(notes),
        tuple(zip(about["starts"], names, strict=True)) if len(names) > 1 else (),
    )


def column_names(source: str, delimiter: str | None = None) -> list[str]:
    """Names of the columns of a data source, from its first row."""
    rows = (row for _, read in _parts([source], [_files(source)], "test", delimiter, None) for row in read())
    return list(next(rows, {}))


class _Reading:
    """Rows of several parts, one after the other, by role.

    Args:
        parts: where the rows are.
        roles: see `read_table`.
        columns: see `read_table`.
        files_in: see `read_table`.
    """

    def __init__(
        self,
        parts: Sequence[_Part],
        roles: Mapping[str, bool],
        columns: Mapping[str, str],
        files_in: Collection[str],
    ) -> None:
        self._parts = parts
        self._roles = roles
        self._given = columns
        self._files_in = files_in
        self._starts: list[int] = []
        self._columns: Columns | None = None

    @property
    def names(self) -> list[str]:
        """Names of the parts."""
        return [name for name, _ in self._parts]

    def rows(self) -> Iterator[Row]:
        """All rows, with every role.

        Raises:
            DataError: there are none, a column is missing, or a cell does not hold a value.
        """
        count = 0
        first: Row | None = None
        for name, read in self._parts:
            self._starts.append(count)
            for number, row in enumerate(read(), start=1):
                count += 1
                if self._columns is None:
                    first, self._columns = row, Columns(row, self._roles, self._given, self._files_in)
                try:
                    yield self._columns.pick(row)
                except MissingColumnError as error:
                    where = name if number == 1 else f"{name}, row {number}"
                    column, role = error.args
                    raise _without(where, column, role, row) from error
                except DataError as error:
                    raise DataError(f"{name}, row {number}: {error.message}", hint=error.hint) from error
        if first is None or self._columns is None:
            raise DataError(f"{' + '.join(self.names)} has no rows")
        for column, role in self._columns.missing(self._given):
            raise _without(" + ".join(self.names), column, role, first)

    def about(self) -> dict[str, Any]:
        """Roles that some row had, and the number of rows before each part; once all rows are read."""
        seen = self._columns.seen if self._columns is not None else ()
        return {"roles": [role for role in self._roles if role in seen], "starts": self._starts}


def _without(where: str, column: str, role: str, row: Row) -> DataError:
    return DataError(
        f"{where}: no column {column!r} for the role {role!r}",
        hint=f"It has: {', '.join(map(repr, row))}. {how_to_map(role)}",
    )


def _only(rows: Sequence[Row], roles: Sequence[str]) -> Sequence[Row]:
    """Rows without the roles that none of them had."""
    if isinstance(rows, MappedItems):
        return MappedItems(rows.batches, RowCodec(roles))
    return [{role: row[role] for role in roles} for row in rows] if len(rows[0]) > len(roles) else rows


def _parts(
    sources: Sequence[str],
    files: Sequence[list[Path] | None],
    split: str,
    delimiter: str | None,
    notes: list[str] | None,
) -> list[_Part]:
    found: list[_Part] = []
    for source, paths in zip(sources, files, strict=True):
        if paths is None:
            found.append((source, partial(from_hub, source, split)))
        for path in paths or ():
            name = source if len(paths or ()) == 1 else str(path)
            found.append((name, partial(read_file, path, name, delimiter, notes)))
    return found


def _files(source: str) -> list[Path] | None:
    return [package_path(source)] if is_package_reference(source) else files_of(source)


def _key(
    files: Sequence[list[Path] | None],
    roles: Mapping[str, bool],
    columns: Mapping[str, str],
    delimiter: str | None,
    files_in: Collection[str],
) -> str | None:
    """Identifies the rows of files by their content and by what is read of it; None if some are not files."""
    contents = []
    for paths in files:
        if paths is None:
            return None
        contents += [(kind_of(path), sha256_file(path)) for path in paths]
    said = json.dumps([_FORMAT, contents, dict(roles), dict(columns), delimiter, sorted(files_in)])
    return hashlib.sha256(said.encode()).hexdigest()
