"""Labelling by a person: which row comes next, what has been said of it, and the file that keeps it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.data import Table
from pefttools.errors import DataError
from pefttools.files import write_text_atomic

#: what was said of each row; and the labelled rows alone
ANSWERS, LABELS = "answers.csv", "labels.csv"
ROW, LABEL, STATE = "row", "label", "state"
_LABELLED, _SKIPPED = "labelled", "skipped"


@dataclass(frozen=True)
class Entry:
    """What was said of one row: its label, or None if it was skipped."""

    index: int
    label: str | None


class LabelFile:
    """A CSV of rows with what was said of them, in the order in which it was said.

    It has the row's number in the source, the row's inputs, its label and its state: labelled or skipped. Next to it
    is `LABELS`, the labelled rows alone, to be trained on. Both are replaced as a whole at every answer, so that the
    loop can be killed at any time.

    Args:
        path: the file; read if it is there.
        table: the rows.
        labels: that there are.

    Raises:
        DataError: the file is of other rows or labels, or damaged.
    """

    def __init__(self, path: Path, table: Table, labels: Sequence[str]) -> None:
        self.path = path
        self._table = table
        self._roles = list(table.columns)
        self.entries = self._read(labels) if path.is_file() else []

    def add(self, entry: Entry) -> None:
        """Keep what was said of a row."""
        self.entries.append(entry)
        self._write()

    def undo(self) -> Entry | None:
        """Take the last one back; None if there is none."""
        if not self.entries:
            return None
        last = self.entries.pop()
        self._write()
        return last

    def _write(self) -> None:
        lines = []
        for entry in self.entries:
            row = self._table.rows[entry.index]
            state = _SKIPPED if entry.label is None else _LABELLED
            cells = ["" if row[role] is None else row[role] for role in self._roles]
            lines.append([self._table.numbers[entry.index], *cells, entry.label or "", state])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.path, _csv([ROW, *self._roles, LABEL, STATE], lines))
        labelled = [line[1:-1] for line in lines if line[-1] == _LABELLED]
        write_text_atomic(self.path.with_name(LABELS), _csv([*self._roles, LABEL], labelled))

    def _read(self, labels: Sequence[str]) -> list[Entry]:
        indices = {number: index for index, number in enumerate(self._table.numbers)}
        found = []
        with self.path.open(encoding="utf-8", newline="") as stream:
            for line, row in enumerate(csv.DictReader(stream), start=2):
                where = f"{self.path}, line {line}"
                number, label, state = row.get(ROW) or "", row.get(LABEL) or "", row.get(STATE)
                index = indices.get(int(number)) if number.isdigit() else None
                if index is None or any(str(self._table.rows[index][r] or "") != row.get(r) for r in self._roles):
                    raise DataError(
                        f"{where}: this is not row {number or '?'} of {self._table.source}",
                        hint="Labels of other rows need a folder of their own: set output.",
                    )
                if state == _LABELLED and label not in labels:
                    raise DataError(f"{where}: there is no label {label!r}", hint="Add it to labels in the spec.")
                if state not in (_LABELLED, _SKIPPED):
                    raise DataError(f"{where}: {state!r} is neither {_LABELLED} nor {_SKIPPED}")
                found.append(Entry(index, label if state == _LABELLED else None))
        return found


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return stream.getvalue()


class Session:
    """Which row comes next.

    Args:
        file: what has been said so far.
        rows: number of rows.
        first: rows to begin with, in their order.
        per_round: labels between two trainings.
    """

    def __init__(self, file: LabelFile, rows: int, first: Sequence[int], per_round: int) -> None:
        self.file = file
        self._rows = rows
        self._queue = list(first)
        self._per_round = per_round
        self._trained_at = 0

    @property
    def labelled(self) -> list[Entry]:
        """Rows that have a label."""
        return [entry for entry in self.file.entries if entry.label is not None]

    @property
    def rest(self) -> list[int]:
        """Rows of which nothing has been said."""
        said = {entry.index for entry in self.file.entries}
        return [index for index in range(self._rows) if index not in said]

    @property
    def current(self) -> int | None:
        """The row to ask about; None if nothing is left in this round."""
        said = {entry.index for entry in self.file.entries}
        while self._queue and self._queue[0] in said:
            self._queue.pop(0)
        return self._queue[0] if self._queue else None

    @property
    def due(self) -> bool:
        """Whether the model is to be trained anew: a round is full, and there is more than one label."""
        enough = len(self.labelled) >= self._trained_at + self._per_round or self.current is None
        return enough and len(self.labelled) > self._trained_at and len({one.label for one in self.labelled}) > 1

    def said(self, label: str | None) -> None:
        """Keep the label of the current row; None skips it."""
        assert self.current is not None
        self.file.add(Entry(self.current, label))

    def undo(self) -> int | None:
        """Ask about the last row again; None if there is none."""
        last = self.file.undo()
        if last is None:
            return None
        self._queue.insert(0, last.index)
        self._trained_at = min(self._trained_at, len(self.labelled))
        return last.index

    def trained(self, queue: Sequence[int]) -> None:
        """Begin a round.

        Args:
            queue: the rows that the new model would learn the most from, in their order.
        """
        self._trained_at = len(self.labelled)
        self._queue = list(queue)


def choice_of(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer means: its number from 1, its name, or the beginning of one name only; None if none.

    A name counts before a number, for labels that are numbers.
    """
    given = answer.strip()
    if given in labels:
        return given
    if given.isdigit():
        return labels[int(given) - 1] if 1 <= int(given) <= len(labels) else None
    near = [label for label in labels if given and label.lower().startswith(given.lower())]
    return near[0] if len(near) == 1 else None
