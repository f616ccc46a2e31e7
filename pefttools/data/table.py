"""One table of rows."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pefttools.data.columns import Row
from pefttools.data.mapped import SMALL, Chosen, gathered
from pefttools.errors import DataError
from pefttools.packages import is_package_reference, package_path


@dataclass(frozen=True)
class Table:
    """Rows, and where they came from.

    Attributes:
        source: files or data sets, as the user wrote them.
        rows: one dict per row, by the names of `columns`.
        columns: role that a task gives a column -> name of the column in the source.
        numbers: row number in the source (from 1), for messages.
        notes: what is unusual about the source.
        parts: number of rows before each file and its name, if the source is several files.
        looked_up: role that got passages which were looked up; None if none did.
    """

    source: str
    rows: Sequence[Row]
    columns: dict[str, str]
    numbers: Sequence[int]
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[int, str], ...] = ()
    looked_up: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, role: str) -> list[Any]:
        """All values of the column that plays `role`."""
        return [row[role] for row in self.rows]

    def error(self, index: int, role: str, problem: str, *, hint: str | None = None) -> DataError:
        """An error about one cell, with file, row and column."""
        return DataError(f"{self.place(index, role)}: {problem}", hint=hint)

    def place(self, index: int, role: str) -> str:
        """File, row and column of a cell, for messages."""
        file, number = self._file(index)
        return f"{file}, row {number}, column {self.columns.get(role, role)!r}"

    def resolved(self, index: int, cell: Any) -> Any:
        """A cell that names a file, by a path that is relative to the file that names it; anything else as it is."""
        if not isinstance(cell, str) or not cell:
            return cell
        # As strings: a table may have a million rows, and a Path takes ten times as long.
        return os.path.join(_folder(self._file(index)[0]), os.path.expanduser(cell))  # noqa: PTH111, PTH118

    def _file(self, index: int) -> tuple[str, int]:
        """The file that a row is from, and its number there."""
        number = self.numbers[index]
        if not self.parts:
            return self.source, number
        before, name = self.parts[bisect_right(self.parts, number - 1, key=lambda part: part[0]) - 1]
        return name, number - before

    def take(self, indices: Sequence[int]) -> Table:
        """The rows at `indices`, in that order."""
        numbers = array("q", (self.numbers[index] for index in indices))
        rows = gathered(self.rows, indices) if len(indices) <= SMALL else Chosen(self.rows, indices)
        return replace(self, rows=rows, numbers=numbers, notes=())

    def digest(self) -> str:
        """sha256 over the rows."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=_plain)
            # half of a character, which JSON may hold, has no UTF-8
            digest.update((f"\n{line}" if index else line).encode(errors="surrogatepass"))
        return digest.hexdigest()


def _plain(value: Any) -> str:
    """A stand-in for a value that JSON does not have."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


@functools.lru_cache(maxsize=256)
def _folder(source: str) -> str:
    return os.path.dirname(str(package_path(source)) if is_package_reference(source) else source)  # noqa: PTH120
