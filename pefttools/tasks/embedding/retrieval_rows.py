"""Rows in which one text is to find another: their two forms, and which texts are candidates for which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.errors import DataError
from pefttools.tasks.labels.class_labels import read_label
from pefttools.tasks.task import Example
from pefttools.tasks.text.texts import check_text

if TYPE_CHECKING:
    from pefttools.metrics.ranking import Places

#: ``pairs``: a text and its positive; ``labels``: texts, of which those of one label are each other's positives
Form = Literal["pairs", "labels"]


def form_of(table: Table, wanted: str) -> Form:
    """Which form a table's rows have, by its columns.

    Args:
        table: labelled rows.
        wanted: the option ``task.form``.

    Raises:
        DataError: neither, or both and the option does not say which.
    """
    pairs, labels = "positive" in table.columns, "label" in table.columns
    if wanted == "auto" and pairs and labels:
        raise DataError(
            f"{table.source}: there is a column for 'positive' and one for 'label', but only one can say what is near",
            hint="Set task.form=pairs or task.form=labels.",
        )
    if wanted == "labels" or (wanted == "auto" and labels):
        needed, form = "label", "labels"
    else:
        needed, form = "positive", "pairs"
    if needed not in table.columns:
        other = " or for 'label'" if wanted == "auto" else f", which task.form={wanted} reads"
        raise DataError(
            f"{table.source}: there is no column for {needed!r}{other}",
            hint=f"Name it in data.columns: {{{needed}: COLUMN}}.",
        )
    if form == "labels" and "negative" in table.columns:
        raise DataError(
            f"{table.source}: the column {table.columns['negative']!r} holds hard negatives, which go with a "
            "'positive', not with a 'label'",
            hint="Map a column to 'positive', or leave 'negative' out.",
        )
    return "labels" if form == "labels" else "pairs"


def negatives_of(cell: Any) -> list[Any]:
    """The hard negatives that a cell holds: none, a text, or a list."""
    return [] if cell is None or cell == "" else list(cell) if isinstance(cell, list | tuple) else [cell]


def check_pair(table: Table, index: int, row: Mapping[str, Any]) -> None:
    """Refuse a row whose positive or negatives are not text, or are the same.

    Raises:
        DataError: names file, row and column.
    """
    check_text(table, index, "positive", row)
    for one in negatives_of(row.get("negative")):
        check_text(table, index, "negative", {"negative": one})
        if one == row["positive"]:
            raise table.error(index, "negative", "it is also the row's positive", hint="Drop it, or the row.")


def check_labels(table: Table) -> None:
    """Refuse rows without a label, and tables in which no label occurs twice.

    Raises:
        DataError: names file, row and column.
    """
    counts = Counter(read_label(table, index, row["label"]) for index, row in enumerate(table.rows))
    if max(counts.values(), default=0) < 2:
        raise DataError(
            f"{table.source}: no label in the column {table.columns['label']!r} occurs twice, so no row has "
            "another that it belongs with"
        )
    if len(counts) < 2:
        raise DataError(
            f"{table.source}: all rows have the same label, {next(iter(counts))!r}: there is nothing to distinguish"
        )


@dataclass(frozen=True)
class Known:
    """What is known of a labelled row.

    Attributes:
        text: its text.
        others: its positive, and its negatives; none for a row with a label.
        label: its label; empty for a row with a positive.
    """

    text: str
    others: tuple[str, ...] = ()
    label: str = ""

    @classmethod
    def of(cls, example: Example) -> Known | None:
        """Of an example; None if nothing is known about its row."""
        if "others" in example:
            return cls(example["text"], tuple(json.loads(example["others"])))
        return cls(example["text"], label=example["label"]) if "label" in example else None

    @property
    def shown(self) -> str:
        """What is to be found: the positive, or the label."""
        return self.others[0] if self.others else self.label


@dataclass(frozen=True)
class Candidates:
    """The candidates of a split's queries, which are its rows.

    Of pairs they are all different positives and negatives. Of labelled texts they are all rows.

    Attributes:
        texts: of the candidates, or, of labelled texts, what they show: their labels.
        relevant: per row, the numbers of the right ones; all positives of rows with the same text.
        left_out: per row, the number of the row itself, or of a candidate that has its text but is not its positive.
        first: per candidate, row and place among the row's others where it first appears; place -1: the row's text.
    """

    texts: Sequence[str]
    relevant: Sequence[Places]
    left_out: Sequence[Places]
    first: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, rows: Sequence[Known]) -> Candidates:
        """Of all rows of a split."""
        return cls._of_pairs(rows) if rows and rows[0].others else cls._of_labels(rows)

    @classmethod
    def _of_labels(cls, rows: Sequence[Known]) -> Candidates:
        import numpy as np

        members: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            members.setdefault(row.label, []).append(index)
        arrays = {label: np.array(one) for label, one in members.items()}
        return cls(
            [row.label for row in rows],
            [arrays[row.label] for row in rows],
            [np.array([index]) for index in range(len(rows))],
            [(index, -1) for index in range(len(rows))],
        )

    @classmethod
    def _of_pairs(cls, rows: Sequence[Known]) -> Candidates:
        import numpy as np

        numbers: dict[str, int] = {}
        first: list[tuple[int, int]] = []
        right: dict[str, set[int]] = {}
        for index, row in enumerate(rows):
            for place, text in enumerate(row.others):
                if text not in numbers:
                    numbers[text] = len(first)
                    first.append((index, place))
            right.setdefault(row.text, set()).add(numbers[row.others[0]])
        arrays = {text: np.array(sorted(one)) for text, one in right.items()}
        nothing = np.array([], dtype=np.int64)
        own = [
            np.array([numbers[row.text]]) if numbers.get(row.text, -1) not in {-1, *right[row.text]} else nothing
            for row in rows
        ]
        return cls(list(numbers), [arrays[row.text] for row in rows], own, first)


def pair_notes(tables: Mapping[str, Table]) -> list[str]:
    """Positives that are in two splits."""
    notes = []
    seen: dict[str, set[int]] = {}
    for split, table in tables.items():
        found = {hash(row["positive"]) for row in table.rows if row.get("positive") is not None}
        for other, earlier in seen.items():
            if shared := len(found & earlier):
                notes.append(f"{split}: {shared:,} of {len(found):,} different positives are also in {other}")
        seen[split] = found
    return notes


def group_notes(tables: Mapping[str, Table]) -> list[str]:
    """Labels that are measured although they were learned, and rows that can't be found."""
    notes = []
    learned: set[str | None] = set()
    for split, table in tables.items():
        counts = Counter(label_text(row["label"]) for row in table.rows)
        single = sum(count == 1 for count in counts.values())
        if single and split != "train":
            notes.append(f"{split}: {single:,} rows have a label that no other row has, and count in no metric")
        if shared := len(counts.keys() & learned):
            notes.append(
                f"{split}: {shared:,} of {len(counts):,} labels also occur in train; set data.group to the labels' "
                "column to measure labels that were not learned"
            )
        learned = learned or set(counts)
    return notes
