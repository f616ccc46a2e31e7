"""Sentences in columns, as CoNLL's shared tasks write them: a word per line, a blank line between sentences.

References:
    Tjong Kim Sang, E. and De Meulder, F. (2003). Introduction to the CoNLL-2003 shared task. CoNLL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pefttools.data.readers.opening import lines
from pefttools.errors import DataError

#: begins a document; it is not a sentence
_DOCUMENT = "-DOCSTART-"


def read_conll(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A row per sentence: ``words`` are the first column, ``tags`` the last, ``column_2`` and so on those between.

    Columns are separated by tabs if a line has one, else by spaces. Lines that begin with ``# `` before a sentence's
    first word are comments.
    """
    number = 0
    sentence: list[list[str]] = []
    for line_number, line in enumerate(lines(path, source), start=1):
        line = line.rstrip("\r\n")
        if line.strip() and not (line.startswith("# ") and not sentence):
            cells = line.split(delimiter or ("\t" if "\t" in line else None))
            if cells[0] == _DOCUMENT:
                continue
            where = f"{source}, sentence {number + 1} (line {line_number})"
            if len(cells) < 2:
                raise DataError(f"{where}: expected a word and its tag, got {line[:40]!r}")
            if sentence and len(cells) != len(sentence[0]):
                raise DataError(f"{where}: {len(cells)} columns, but {len(sentence[0])} in the sentence's first line")
            sentence.append(cells)
        elif sentence:
            number += 1
            yield _row(sentence)
            sentence = []
    if sentence:
        yield _row(sentence)


def _row(sentence: list[list[str]]) -> dict[str, Any]:
    columns = [list(column) for column in zip(*sentence, strict=True)]
    between = {f"column_{place}": column for place, column in enumerate(columns[1:-1], start=2)}
    return {"words": columns[0], **between, "tags": columns[-1]}
