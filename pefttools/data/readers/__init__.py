"""Readers of files: each gives rows as dicts, one after the other, and errors name file, row and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pefttools.data.readers.columnar import read_arrow, read_parquet, read_xlsx
from pefttools.data.readers.conll import read_conll
from pefttools.data.readers.delimited import read_csv, read_tsv
from pefttools.data.readers.json_rows import read_json, read_jsonl
from pefttools.data.readers.opening import COMPRESSED, kind_of
from pefttools.errors import DataError

#: called with the file, its name for messages, the delimiter that a recipe gives, and a list for notes
Reader = Callable[[Path, str, str | None, list[str] | None], Iterator[dict[str, Any]]]

READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".xlsx": read_xlsx,
    ".conll": read_conll,
    ".bio": read_conll,
    ".iob": read_conll,
}


def read_file(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a file, by its ending; anything unusual about it is added to `notes`.

    Raises:
        DataError: it can't be read; names row, line and column if there are any.
    """
    reader = READERS.get(kind_of(path))
    if reader is None:
        known = f"{', '.join(sorted(READERS))}; each also with {', '.join(COMPRESSED)}"
        raise DataError(f"{source}: files of type {path.suffix!r} can't be read", hint=f"Known: {known}.")
    return reader(path, source, delimiter, notes)


def files_of(source: str) -> list[Path] | None:
    """The files that a source means: one, all of a folder, or those that match a pattern; None if it is not a path.

    Raises:
        DataError: it looks like a path, but nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.is_file() and kind_of(one) in READERS)
        if not found:
            raise DataError(f"the folder {source!r} contains no file that can be read", hint=f"Known: {_known()}.")
        return found
    if any(sign in source for sign in "*?["):
        found = sorted(one for one in Path(path.anchor or ".").glob(_relative(path)) if one.is_file())
        if not found:
            raise DataError(f"the pattern {source!r} matches no file")
        return found
    if kind_of(path) in READERS or source.count("/") != 1 or source.startswith((".", "~")):
        raise DataError(f"the data file {source!r} does not exist")
    return None


def _relative(path: Path) -> str:
    return str(path.relative_to(path.anchor)) if path.anchor else str(path)


def _known() -> str:
    return ", ".join(sorted(READERS))
