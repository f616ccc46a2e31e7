"""What is unusual about the rows of a training run: one line each, for the log and the record."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from pefttools.data.columns import Row
from pefttools.data.labels import label_text
from pefttools.data.table import Table

#: ratio of the largest to the smallest class
_IMBALANCE = 20
_SHOWN = 5

Identity = Callable[[Row], Hashable | None]


def label_notes(tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
    """Classes of very different sizes in training, and labels that a split lacks."""
    notes, known = [], set(labels)
    for split, table in tables.items():
        counts: Counter[str | None] = Counter()
        spaces = 0
        for row in table.rows:
            counts[label_text(row["label"])] += 1
            spaces += isinstance(row["label"], str) and row["label"] != row["label"].strip()
        missing = [label for label in labels if not counts[label]]
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            notes.append(f"{split}: {len(missing)} of {len(labels)} labels do not occur: {shown}")
        found = [(count, str(label)) for label, count in counts.items() if label in known]
        if split == "train" and len(found) > 1 and max(found)[0] > _IMBALANCE * min(found)[0]:
            (most, often), (least, seldom) = max(found), min(found)
            notes.append(
                f"train: {often!r} has {most:,} rows, {seldom!r} {least:,}: see task.class_weights=balanced and "
                "selection.metric=f1_macro"
            )
        if spaces:
            notes.append(f"{split}: white space around the labels of {spaces:,} rows is ignored")
    return notes


def duplicate_notes(tables: Mapping[str, Table], identity: Identity, strata: Identity) -> list[str]:
    """Inputs that occur twice within a split, with different labels, or in two splits.

    Args:
        tables: the splits.
        identity: gives what makes two rows the same input.
        strata: gives a row's label; None if there are none.
    """
    import numpy

    notes = []
    seen: dict[str, Any] = {}
    for split, table in tables.items():
        # Numbers of eight bytes, not the texts themselves: a million rows are eight megabytes.
        hashes, both = array("q"), array("q")
        for row in table.rows:
            hashes.append(hash(identity(row)))
            both.append(hash((hashes[-1], strata(row))))
        inputs = numpy.frombuffer(hashes, dtype=numpy.int64)
        unique = numpy.unique(inputs)
        if len(unique) < len(inputs):
            line = f"{split}: {len(inputs) - len(unique):,} of {len(inputs):,} rows repeat the input of another"
            unlike = len(numpy.unique(numpy.frombuffer(both, dtype=numpy.int64))) - len(unique)
            line += f", {unlike:,} of them with a different label" if unlike else ""
            notes.append(line)
        for other, earlier in seen.items():
            shared = int(numpy.isin(inputs, earlier).sum())
            if shared:
                notes.append(f"{split}: {shared:,} of {len(inputs):,} rows have an input that is also in {other}")
        seen[split] = unique
    return notes
