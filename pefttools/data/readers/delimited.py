"""Tables as text: csv and tsv."""

from __future__ import annotations

import csv
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pefttools.data.readers.opening import lines
from pefttools.errors import DataError

#: in this order, where the header holds no comma
_OTHERS = (";", "\t", "|")
_WARNINGS = 3


def read_csv(path: Path, source: str, delimiter: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file whose cells are parted by commas, or by what its header or first line says."""
    return _rows(lines(path, source), source, delimiter)


def read_tsv(path: Path, source: str, delimiter: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file whose cells are parted by tabs."""
    return _rows(lines(path, source), source, delimiter or "\t")


def check_names(names: Iterable[Any], source: str) -> None:
    """Refuse two columns of one name, of which one would be lost.

    Raises:
        DataError: names it.
    """
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{source} has two columns {name!r}", hint="Rename one of them.")
        seen.add(name)


def _rows(stream: Iterator[str], source: str, delimiter: str | None) -> Iterator[dict[str, Any]]:
    head, skipped = _first_line(stream)
    if head.lower().startswith("sep=") and len(head.strip()) == 5:
        delimiter = delimiter or head.strip()[4]
        head, more = _first_line(stream)
        skipped += 1 + more
    delimiter = delimiter or _delimiter(head)
    # The limit stands for the whole process. It is raised and left so: files that are read side by side would put back
    # each other's.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(itertools.chain([head], stream), delimiter=delimiter, strict=True)
    begins = 0
    try:
        header = next(reader, None)
        if not header:
            return
        check_names(header, source)
        said = 0
        number = 0
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
                    hint=f"Cells are parted by {delimiter!r}: data.delimiter names another sign.",
                )
            if said < _WARNINGS and _swallowed(cells, delimiter):
                said += 1
                warnings.warn(
                    f"{source}, row {number} (lines {first} to {skipped + reader.line_num}): a cell holds line ends "
                    "that look like rows of their own. Is a quote missing or too many?",
                    stacklevel=2,
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        where = f"line {skipped + reader.line_num}"
        if "unexpected end of data" in str(error):
            raise DataError(
                f"{source}: the quote that opens in the row after line {skipped + begins} never closes",
                hint='Close it, or write a quote inside of a cell twice ("").',
            ) from error
        raise DataError(f"{source}, {where}: {error}") from error


def _first_line(stream: Iterator[str]) -> tuple[str, int]:
    """The first line that is not blank, and how many came before it."""
    for number, line in enumerate(stream):
        if line.strip():
            return line, number
    return "", 0


def _delimiter(head: str) -> str:
    """A comma, unless the header holds none and another sign."""
    outside = "".join(part for index, part in enumerate(head.split('"')) if index % 2 == 0)
    if "," in outside:
        return ","
    return max(_OTHERS, key=outside.count) if any(sign in outside for sign in _OTHERS) else ","


def _swallowed(cells: list[str], delimiter: str) -> bool:
    """Whether a cell holds lines that have as many delimiters as a row, as where a stray quote has opened it."""
    if len(cells) < 2:
        return False
    for cell in cells:
        inside = cell.split("\n")[1:-1] if cell.count("\n") > 2 else ()
        if inside and sum(line.count(delimiter) == len(cells) - 1 for line in inside) > len(inside) / 2:
            return True
    return False
