"""Rows as JSON: an object per line, a list of objects, or an object of columns."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pefttools.data.readers.delimited import check_names
from pefttools.data.readers.opening import lines
from pefttools.errors import DataError


def read_jsonl(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """An object per line; blank lines are skipped."""
    number = 0
    for line_number, line in enumerate(lines(path, source), start=1):
        if not line.strip():
            continue
        number += 1
        where = f"{source}, row {number} (line {line_number})"
        try:
            row = json.loads(line, object_pairs_hook=functools.partial(_object, where=where))
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a row must be an object, not {line[:40]!r}")
        yield row


def read_json(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A list of objects, or one object of columns of the same length."""
    try:
        content = json.loads("".join(lines(path, source)), object_pairs_hook=functools.partial(_object, where=source))
    except ValueError as error:
        raise DataError(
            f"{source}: not valid JSON: {error}", hint="If it has one object per line, call it .jsonl."
        ) from error
    if isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        sizes = {name: len(column) for name, column in content.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{source}: its columns have different lengths: {sizes}")
        yield from (dict(zip(content, cells, strict=True)) for cells in zip(*content.values(), strict=True))
        return
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(
            f"{source}: a .json file must contain a list of objects, or an object of columns (lists)",
            hint="If it has one object per line, call it .jsonl.",
        )
    yield from content


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        check_names((name for name, _ in pairs), where)
    return found
