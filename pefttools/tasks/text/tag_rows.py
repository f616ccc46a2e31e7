"""The words and tags of a row: lists, or texts that are separated by spaces."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pefttools.data import Table
from pefttools.data.labels import label_text
from pefttools.errors import DataError, UnknownNameError
from pefttools.tasks.text.texts import check_whole


def words_of(table: Table, index: int) -> list[str]:
    """The words of a row that was checked."""
    value = table.rows[index]["words"]
    return value.split() if isinstance(value, str) else [str(word) for word in value]


def tags_of(table: Table, index: int) -> list[str]:
    """The tags of a row.

    Raises:
        DataError: they are neither a list nor a text, or one is missing; names file, row and column.
    """
    value = _listed(table, index, "tags")
    found = []
    for place, one in enumerate(value, start=1):
        try:
            tag = label_text(one)
        except DataError as error:
            raise table.error(index, "tags", f"tag {place}: {error.message}", hint=error.hint) from error
        if tag is None:
            raise table.error(index, "tags", f"tag {place} of {len(value)} is empty", hint="Fill it or drop the row.")
        found.append(tag)
    return found


def check_words(table: Table, index: int) -> list[str]:
    """The words of a row.

    Raises:
        DataError: there are none, or one is not text; names file, row and column.
    """
    value = _listed(table, index, "words")
    if not value:
        raise table.error(index, "words", "the sentence is empty", hint="Fill it or drop the row.")
    for place, word in enumerate(value, start=1):
        if not (isinstance(word, str) and word.strip()):
            raise table.error(index, "words", f"word {place} of {len(value)}: expected text, got {word!r}")
    check_whole(table, index, "words", value)
    return value


def check_tags(table: Table, index: int, words: int, known: Collection[str]) -> None:
    """Refuse a row whose tags are not one for each word, or not known.

    Raises:
        DataError: names file, row and column.
    """
    tags = tags_of(table, index)
    if len(tags) != words:
        raise table.error(
            index, "tags", f"{len(tags)} tags for {words} words", hint="One tag is needed for each word."
        )  # fmt: skip
    for place, tag in enumerate(tags, start=1):
        if tag not in known:
            near = UnknownNameError("tag", tag, known)
            raise table.error(
                index, "tags", f"the tag {tag!r} of word {place} does not occur in the training rows", hint=near.hint
            )


def _listed(table: Table, index: int, role: str) -> list[Any]:
    value = table.rows[index].get(role)
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple):
        return list(value)
    raise table.error(
        index, role, f"expected a list, or a text separated by spaces, got {value!r}", hint="Fill it or drop the row."
    )
