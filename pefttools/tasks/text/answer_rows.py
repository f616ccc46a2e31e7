"""The answers of a row, and where they are in its context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pefttools.data import Table
from pefttools.errors import DataError

_FORM = 'Write {"text": ["..."], "answer_start": [12]}, with empty lists if there is no answer.'


@dataclass(frozen=True)
class Answers:
    """The answers of one row.

    Attributes:
        texts: the right answers; empty if the question has no answer.
        start: character of the context at which the first of them begins; None if it is not there, as may be where the
            context was looked up.
        elsewhere: whether it also occurs elsewhere in the context, and the data does not say which is meant.
    """

    texts: tuple[str, ...] = ()
    start: int | None = 0
    elsewhere: bool = False


def answers_of(table: Table, index: int) -> Answers:
    """The answers of a row, from its column `answers`, or else `answer`.

    Raises:
        DataError: they have a different form, or do not occur in the context; names file, row and column.
    """
    row = table.rows[index]
    if "answers" in table.columns and "answer" in table.columns:
        raise table.error(
            index, "answers", "there are columns for both 'answers' and 'answer'", hint="Leave one of them out."
        )
    if table.looked_up == "context" and {"answers", "answer"} & table.columns.keys():
        return _looked_for(table, index, row["context"])
    if "answers" in table.columns:
        return _with_places(table, index, row["context"], row.get("answers"))
    if "answer" in table.columns:
        return _found(table, index, row["context"], row.get("answer"))
    raise table.error(
        index,
        "answers",
        "there is no column for answers or answer",
        hint="Name the column: data.columns: {answers: ...}.",
    )


def _looked_for(table: Table, index: int, context: str) -> Answers:
    """The answers of a row whose context was looked up, wherever they are in it."""
    row = table.rows[index]
    if "answer" in table.columns:
        given = row.get("answer")
        if given is not None and not isinstance(given, str):
            raise table.error(index, "answer", f"expected text, got {given!r}", hint="Write it as text.")
        texts = [given.strip()] if given and given.strip() else []
    else:
        texts = _texts_and_places(table, index, row.get("answers"))[0]
    places = [(start, text) for text in texts if (start := context.find(text)) >= 0]
    if not places:
        return Answers(tuple(texts), None)
    start, first = places[0]
    others = [text for text in texts if text != first]
    return Answers((first, *others), start, context.find(first, start + 1) >= 0)


def _with_places(table: Table, index: int, context: str, value: Any) -> Answers:
    """In SQuAD's form: texts, and the character at which each begins."""
    texts, starts = _texts_and_places(table, index, value)
    for text, start in zip(texts, starts, strict=True):
        there = context[start : start + len(text)] if start >= 0 else ""
        if there != text:
            raise table.error(
                index,
                "answers",
                f"the answer {text!r} is not at character {start} of the context; {there!r} is",
                hint="answer_start counts characters from 0. Texts in a column answer need no places.",
            )
    return Answers(tuple(texts), starts[0]) if texts else Answers()


def _texts_and_places(table: Table, index: int, value: Any) -> tuple[list[str], list[int]]:
    """The parts of a cell in SQuAD's form."""
    if isinstance(value, list):  # as in SQuAD's own files: one mapping per answer
        if not all(isinstance(one, Mapping) for one in value):
            raise _malformed(table, index, value)
        value = {name: [one.get(name) for one in value] for name in ("text", "answer_start")}
    if not isinstance(value, Mapping):
        raise _malformed(table, index, value)
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise _malformed(table, index, value)
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int) or isinstance(start, bool):
            raise _malformed(table, index, value)
    return texts, starts


def _found(table: Table, index: int, context: str, value: Any) -> Answers:
    """A text that is searched for in the context; empty if there is no answer."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return Answers()
    if not isinstance(value, str):
        raise table.error(index, "answer", f"expected text, got {value!r}", hint="Write it as text.")
    text = value.strip()
    start = context.find(text)
    if start < 0:
        raise table.error(
            index,
            "answer",
            f"{text!r} does not occur in the context",
            hint="An answer must be a piece of the context, letter for letter; leave the cell empty if there is none.",
        )
    return Answers((text,), start, context.find(text, start + 1) >= 0)


def _malformed(table: Table, index: int, value: Any) -> DataError:
    return table.error(index, "answers", f"expected texts and their places, got {value!r}", hint=_FORM)
