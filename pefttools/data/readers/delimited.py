"""Tables as text: csv and tsv."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pefttools.data.readers.opening import lines
from pefttools.errors import DataError

#: in this order, if the header has no comma
_OTHERS = (";", "\t", "|")
#: maximum number of characters of a cell; fits a C long on every platform
_LONGEST = 2**31 - 1
#: maximum number of notes per file, and of values of its last column that are remembered
_NOTES, _KNOWN = 3, 10_000


def read_csv(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a file whose cells are separated by commas, or by what its header or first line says."""
    return _rows(lines(path, source), source, delimiter, notes)


def read_tsv(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a file whose cells are separated by tabs."""
    return _rows(lines(path, source), source, delimiter or "\t", notes)


def check_names(names: Iterable[Any], source: str) -> None:
    """Refuse two columns with the same name, one of which would be lost.

    Raises:
        DataError: names it.
    """
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{source} has two columns named {name!r}", hint="Rename one of them.")
        seen.add(name)


def _rows(
    stream: Iterator[str], source: str, delimiter: str | None, notes: list[str] | None
) -> Iterator[dict[str, Any]]:
    head, skipped = _first_line(stream)
    if head.lower().startswith("sep=") and len(head.strip()) == 5:
        delimiter = delimiter or head.strip()[4]
        head, more = _first_line(stream)
        skipped += 1 + more
    if delimiter is None:
        second = next(stream, "")
        delimiter = _delimiter(head, second)
        stream = itertools.chain([second] if second else [], stream)
    # The limit is that of the whole process. It is raised and left so: files that are read concurrently would reset
    # each other's.
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(itertools.chain([head], stream), delimiter=delimiter, strict=True)
    begins = 0
    try:
        header = next(reader, None)
        if not header:
            return
        check_names(header, source)
        last: set[str] = set()
        number = odd = 0
        begins = reader.line_num
        for cells in reader:
            first, begins = skipped + begins + 1, reader.line_num
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{source}, row {number} (line {skipped + reader.line_num}): {len(cells)} cells, but the header "
                    f"names {len(header)} columns",
                    hint=f"Cells are separated by {delimiter!r}: set data.delimiter for another character.",
                )
            if notes is not None and _swallowed(cells, delimiter, last):
                odd += 1
                if odd <= _NOTES:
                    notes.append(
                        f"{source}, row {number} (lines {first} to {skipped + reader.line_num}): a cell contains line "
                        "ends that look like rows of their own. Is a quote missing or too many?"
                    )
            if len(last) < _KNOWN:
                last.add(cells[-1])
            yield dict(zip(header, cells, strict=True))
        if notes is not None and odd > _NOTES:
            notes.append(f"{source}: {odd - _NOTES:,} further rows have such cells")
    except csv.Error as error:
        where = f"line {skipped + reader.line_num}"
        if "unexpected end of data" in str(error):
            raise DataError(
                f"{source}: the quote that opens in the row after line {skipped + begins} never closes",
                hint='Close it, or write a quote inside a cell twice ("").',
            ) from error
        raise DataError(f"{source}, {where}: {error}") from error


def _first_line(stream: Iterator[str]) -> tuple[str, int]:
    """The first line that is not blank, and how many lines came before it."""
    for number, line in enumerate(stream):
        if line.strip():
            return line, number
    return "", 0


def _delimiter(head: str, second: str) -> str:
    """A comma, unless the header has none, and has another delimiter as often as the line after it."""
    named, cells = _outside_of_quotes(head), _outside_of_quotes(second)
    if "," in named:
        return ","
    alike = [sign for sign in _OTHERS if named.count(sign) and (named.count(sign) == cells.count(sign) or not cells)]
    return max(alike, key=named.count) if alike else ","


def _outside_of_quotes(line: str) -> str:
    """What is outside of quotes in a line; nothing if a quote is still open at its end."""
    parts = line.split('"')
    return "".join(parts[::2]) if len(parts) % 2 else ""


def _swallowed(cells: list[str], delimiter: str, last: set[str]) -> bool:
    """Whether a cell holds what looks like the end of a row and further rows, as when a stray quote has opened it.

    Args:
        cells: cells of a row.
        delimiter: the delimiter between them.
        last: contents of the last cells of earlier rows, such as labels.
    """
    for index, cell in enumerate(cells):
        first, *rest = cell.split("\n")
        if not rest:
            continue
        behind = len(cells) - 1 - index  # cells that a row has after this one
        if len(cells) > 1 and first.count(delimiter) == behind and first.rpartition(delimiter)[2].strip() in last:
            return True
        inside = rest[:-1]
        if len(inside) > 2 and all(line.count(delimiter) == len(cells) - 1 > 0 for line in inside):
            return True
    return False
