"""The choices of a row, and which of them is right."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, Literal

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.errors import DataError
from pefttools.tasks.text.texts import check_whole

#: what the cells of the column `label` may be
LabelKind = Literal["number", "letter", "text"]


def choices_of(table: Table, index: int, separator: str) -> list[str]:
    """The choices of a row.

    Args:
        table: the rows.
        index: index of the row.
        separator: between choices that are written in one text.

    Raises:
        DataError: there are not at least two, or one is empty; names file, row and column.
    """
    value = table.rows[index].get("choices")
    if isinstance(value, str):
        value = value.split(separator)
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise table.error(
            index,
            "choices",
            f"expected a list of at least two texts, or one text with {separator!r} between them, got {value!r}",
            hint="Fill it or drop the row.",
        )
    found = []
    for number, one in enumerate(value):
        try:
            text = label_text(one)
        except DataError:
            text = None
        if text is None:
            raise table.error(index, "choices", f"choice {number} (from 0) must be text, not {one!r}")
        found.append(text)
    check_whole(table, index, "choices", found)
    return found


def right_choice(table: Table, index: int, choices: Sequence[str], kind: LabelKind | None) -> int:
    """The number of the right choice, from 0.

    Args:
        table: the rows.
        index: index of the row.
        choices: of the row.
        kind: what the column holds; None for whatever identifies exactly one choice.

    Raises:
        DataError: no choice is meant, or more than one may be; names file, row and column.
    """
    try:
        label = label_text(table.rows[index].get("label"))
    except DataError as error:
        raise table.error(index, "label", error.message) from error
    if label is None:
        raise table.error(index, "label", "the right choice is missing", hint="Fill it or drop the row.")
    meant = {name: numbers for name, numbers in _meanings(label, choices).items() if kind in (None, name)}
    numbers = sorted({number for found in meant.values() for number in found})
    if len(numbers) == 1:
        return numbers[0]
    if not numbers:
        raise table.error(
            index,
            "label",
            f"{label!r} is not one of the {len(choices)} choices",
            hint=f"Give the right one's {kind or 'number from 0, letter or text'}; the choices are: {_shown(choices)}.",
        )
    said = " or ".join(f"by its {name} choice {number}" for name, found in meant.items() for number in found)
    raise table.error(
        index,
        "label",
        f"{label!r} may mean {said} (from 0)",
        hint="Set task.label to number, letter or text; drop rows in which two choices are the same.",
    )


def _meanings(label: str, choices: Sequence[str]) -> dict[LabelKind, list[int]]:
    """The choices that a label may name, in each way."""
    letter = string.ascii_uppercase.find(label.upper()) if len(label) == 1 else -1
    number = int(label) if label.isascii() and label.isdigit() else -1
    return {
        "number": [number] if 0 <= number < len(choices) else [],
        "letter": [letter] if 0 <= letter < len(choices) else [],
        "text": [place for place, one in enumerate(choices) if one == label],
    }


def _shown(choices: Sequence[Any]) -> str:
    return ", ".join(repr(one if len(one) <= 60 else f"{one[:57]}...") for one in choices[:8])
