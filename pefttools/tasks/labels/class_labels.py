"""The labels of classification rows: their names, and rows whose label can't be learned."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.errors import ConfigError, DataError, UnknownNameError
from pefttools.tasks.text.texts import check_whole


def label_names(train: Table, declared: Sequence[str]) -> list[str]:
    """Names of the labels: the declared ones in their order, else those of the training rows, sorted.

    Raises:
        DataError: fewer than two, a missing one, or booleans among numbers.
    """
    kinds: dict[bool, int] = {}
    found = set()
    for index, row in enumerate(train.rows):
        value = row["label"]
        found.add(read_label(train, index, value))
        if isinstance(value, int | float):
            kinds.setdefault(isinstance(value, bool), index)
        if len(kinds) == 2:
            raise train.error(
                index, "label", f"{value!r} is mixed with {train.rows[min(kinds.values())]['label']!r}",
                hint="Write all labels as numbers, or all as booleans.",
            )  # fmt: skip
    _check_alike(train, found, numbers=False in kinds, truths=True in kinds)
    names = declared_labels(declared) if declared else sorted(found)
    if len(names) < 2:
        raise DataError(f"{train.source}: column {train.columns['label']!r} has {len(names)} label; two are needed")
    return names


def declared_labels(labels: Sequence[str]) -> list[str]:
    """Names that a recipe lists in ``task.labels``.

    Raises:
        DataError: an empty one, or one twice.
    """
    names = [label_text(label) for label in labels]
    for index, name in enumerate(names):
        if name is None or name in names[:index]:
            raise DataError(
                f"task.labels: {labels[index]!r} is {'empty' if name is None else 'listed twice'}",
                hint="White space around a label is not part of it.",
            )
    return [name for name in names if name is not None]


def _check_alike(table: Table, names: set[str], *, numbers: bool, truths: bool) -> None:
    """Refuse labels that are one value in two spellings, where some rows hold the value itself.

    Raises:
        DataError: names both.
    """
    seen: dict[Any, str] = {}
    for name in sorted(names):
        value: Any = name.lower() if truths and name.lower() in ("true", "false") else None
        if numbers:
            with contextlib.suppress(ValueError):
                value = float(name)
        if value is not None and seen.setdefault(value, name) != name:
            raise DataError(
                f"{table.source}, column {table.columns['label']!r}: the labels {seen[value]!r} and {name!r} have the "
                "same value",
                hint="Write them alike.",
            )


def check_label(table: Table, index: int, value: Any, labels: Sequence[str] | set[str], role: str = "label") -> None:
    """Refuse a row whose label is not one of those that are learned.

    Raises:
        DataError: it is missing, not one label, or not known.
    """
    name = read_label(table, index, value, role)
    if name in labels:
        return
    near = UnknownNameError("label", name, labels)
    hint = near.hint if len(labels) <= 30 else (near.hint or "").partition("Known:")[0]
    raise table.error(
        index, role, f"the label {value!r} does not occur in the training rows",
        hint=f"{hint or ''} In a recipe, data.unknown_labels=skip leaves such rows out.".strip(),
    )  # fmt: skip


def read_label(table: Table, index: int, value: Any, role: str = "label") -> str:
    """The name of a row's label, whose cell holds a value.

    Raises:
        DataError: it is missing, or not one label.
    """
    try:
        name = label_text(value)
    except DataError as error:
        raise table.error(index, role, error.message, hint=error.hint) from error
    if name is None:
        raise table.error(index, role, "the label is empty", hint="Fill it or drop the row.")
    check_whole(table, index, role, name)
    return name


@functools.lru_cache(maxsize=8)
def numbers_of(labels: tuple[str, ...]) -> dict[str, int]:
    """Label, as a cell has it -> its number. Called for every row with the same labels."""
    return {label_text(label) or label: number for number, label in enumerate(labels)}


def told_apart(groups: Sequence[Sequence[str]], labels: Sequence[str]) -> list[list[bool]]:
    """Which labels each label is told apart from, by groups; in a last row, those of any group.

    Raises:
        ConfigError: a group names a label that there is none of.
    """
    _check_known([label for group in groups for label in group], labels, "task.among")
    of = {label: set(group) for group in groups for label in group}
    every = set(of)
    return [[one in of.get(label, every) for one in labels] for label in labels] + [[one in every for one in labels]]


@functools.lru_cache(maxsize=8)
def answers_of(
    answers: tuple[str, ...], groups: tuple[tuple[str, ...], ...], labels: tuple[str, ...]
) -> list[bool] | None:
    """Whether each label may be a prediction; None if all may. Called for every row with the same ones.

    Args:
        answers: labels that may; empty: those of all groups.
        groups: of labels that are told apart.
        labels: all of them.

    Raises:
        ConfigError: one names a label that there is none of.
    """
    _check_known(answers, labels, "task.answers")
    allowed = set(answers) or {label for group in groups for label in group}
    return [label in allowed for label in labels] if allowed else None


def _check_known(given: Sequence[str], labels: Sequence[str], where: str) -> None:
    known = set(labels)
    if (unknown := next((one for one in given if one not in known), None)) is not None:
        raise ConfigError(
            f"{where}: there is no label {unknown!r}", hint=UnknownNameError("label", unknown, labels).hint
        )
