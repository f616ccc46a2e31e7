"""One table of rows, and how it is read from csv, tsv, jsonl, parquet or a hub data set."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.data.arrow_rows import RowCodec
from pefttools.data.mapped import SMALL, Chosen, found, gathered, kept
from pefttools.errors import DataError, UnknownNameError
from pefttools.files import sha256_file
from pefttools.packages import is_package_reference, package_path

Row = dict[str, Any]
#: of cached rows; another one where a reader gives other rows for the same file
_FORMAT = 1

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
    """

    source: str
    rows: Sequence[Row]
    columns: dict[str, str]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, role: str) -> list[Any]:
        """All values of the column that plays `role`."""
        return [row[role] for row in self.rows]

    def error(self, index: int, role: str, problem: str, *, hint: str | None = None) -> DataError:
        """An error about one cell, with file, row and column."""
        return DataError(
            f"{self.source}, row {self.numbers[index]}, column {self.columns[role]!r}: {problem}", hint=hint
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
            digest.update(f"\n{line}".encode() if index else line.encode())
        return digest.hexdigest()


def read_table(source: str, roles: dict[str, bool], columns: dict[str, str], *, split: str = "train") -> Table:
    """Read rows and give their columns the names of the task's roles.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` file, a ``package:`` reference to one, or a
            hub data set ``ORG/NAME``, ``ORG/NAME:CONFIG`` or ``ORG/NAME:CONFIG@SPLIT``.
        roles: role -> whether it must be there, e.g. ``{"text": True, "pair": False}``.
        columns: role -> column name, where they differ.
        split: split of a hub data set where the source names none.

    Raises:
        DataError: the file can't be read, or a column is missing.
    """
    for role in columns:
        if role not in roles:
            raise UnknownNameError("column role", role, roles, where="data.columns")
    stream = iter(_rows(source, split))
    first = next(stream, None)
    if first is None:
        raise DataError(f"{source} has no rows")
    chosen, parts = _find_columns(source, first, roles, columns)
    codec = RowCodec(list(chosen))
    key = _key(source, chosen)
    rows = None if key is None else found(key, codec)
    if rows is None:
        mapped = _with_roles(source, itertools.chain([first], stream), chosen, parts)
        rows = kept(mapped, lambda _: codec, key)
    return Table(source, rows, chosen, range(1, len(rows) + 1))


def column_names(source: str) -> list[str]:
    """Names of the columns of a data source, from its first row."""
    return list(next(iter(_rows(source, "test")), {}))


def _rows(source: str, split: str) -> Iterable[Row]:
    if is_package_reference(source):
        return _read_file(package_path(source), source)
    path = Path(source).expanduser()
    if path.exists() or path.suffix in _READERS or source.count("/") != 1:
        if not path.is_file():
            raise DataError(f"the data file {source!r} does not exist")
        return _read_file(path, source)
    return _from_hub(source, split)


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


def _key(source: str, chosen: dict[str, str]) -> str | None:
    """Names the rows of a file by its content and by what is read of it; None where there is no file."""
    path = package_path(source) if is_package_reference(source) else Path(source).expanduser()
    if not path.is_file():
        return None
    said = json.dumps([_FORMAT, path.suffix.lower(), sha256_file(path), chosen])
    return hashlib.sha256(said.encode()).hexdigest()


def _value(row: Row, name: str, parts: list[str]) -> Any:
    """A cell, or several in a text."""
    if parts == [name]:
        return row[name]
    cells = {part: str(row[part]) for part in parts}
    return _COLUMN_IN_TEXT.sub(lambda match: cells[match[1]], name)


def _read_file(path: Path, source: str) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{source}: files of the kind {path.suffix!r} can't be read",
            hint=f"Known: {', '.join(sorted(_READERS))}.",
        )
    return reader(path, source)


def _read_csv(path: Path, source: str, delimiter: str = ",") -> Iterator[Row]:
    reader = csv.reader(_lines(path, source), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header:
            return
        for number, cells in enumerate((row for row in reader if row), start=1):
            if len(cells) != len(header):
                raise DataError(
                    f"{source}, row {number} (line {reader.line_num}): {len(cells)} cells, but the header names "
                    f"{len(header)} columns"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: {error}") from error


def _read_tsv(path: Path, source: str) -> Iterator[Row]:
    return _read_csv(path, source, delimiter="\t")


def _read_jsonl(path: Path, source: str) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(_lines(path, source), start=1):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{source}, row {number} (line {line_number}): no valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{source}, row {number} (line {line_number}): a row must be an object, not {line[:40]!r}")
        yield row


def _read_json(path: Path, source: str) -> Iterator[Row]:
    try:
        rows = json.loads("".join(_lines(path, source)))
    except ValueError as error:
        raise DataError(f"{source}: no valid JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{source}: a .json file must hold a list of objects", hint="One object per line: call it .jsonl."
        )
    yield from rows


def _read_parquet(path: Path, source: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source} is no readable parquet file: {error}") from error
    yield from table.to_pylist()


def _lines(path: Path, source: str) -> Iterator[str]:
    """Lines of a UTF-8 file; says where one that is not UTF-8 goes wrong."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                # the signature that some editors put before the first character
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                before = line[: error.start]
                column = before.count(b"\t" if path.suffix == ".tsv" else b",") + 1
                row = "the header" if number == 1 and path.suffix in (".csv", ".tsv") else f"line {number}"
                raise DataError(
                    f"{source}, {row}, about column {column}: byte 0x{line[error.start]:02x} is not UTF-8",
                    hint="Save the file as UTF-8 (iconv -f latin1 -t utf-8 OLD > NEW).",
                ) from error


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _from_hub(source: str, split: str) -> list[Row]:
    from datasets import load_dataset

    name, _, given = source.partition("@")
    name, _, config = name.partition(":")
    try:
        loaded = load_dataset(name, config or None, split=given or split)
    except Exception as error:
        raise DataError(
            f"{source!r} is no file here and the hub gave no such data set (split {given or split!r}): "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="Check the name and the network, or give a file.",
        ) from error
    rows: list[Row] = loaded.to_list()
    # Class labels are numbers in such a data set; a person wants their names.
    for column, feature in loaded.features.items():
        if hasattr(feature, "int2str"):
            for row in rows:
                row[column] = feature.int2str(row[column])
    return rows
