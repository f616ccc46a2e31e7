"""Passages that were found for a row, as a part of what its model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.tasks.language.chats import text_of

if TYPE_CHECKING:
    from pefttools.tasks.task import Task


class KnowledgeConfig(BaseModel):
    """The `knowledge` part of a recipe: passages are looked up for each row and added to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: Path = Field(description="folder of an index of passages; see `pefttools index`")
    query: str | None = Field(None, description="role of the text that is looked up; by default the task's first role")
    into: str | None = Field(
        None,
        description="role that gets the passages, before what it holds already; by default the text that the task "
        "reads along with its first one, else the query's own",
    )
    passages: int = Field(3, ge=1, le=100, description="number of passages for a row")
    replace: bool = Field(False, description="put the passages in the place of what the row holds there, not before it")

    def placement(self, task: Task[Any] | type[Task[Any]]) -> Placement:
        """Where the passages go in a task's rows.

        Raises:
            ConfigError: the task has no such role, it does not hold a text, or it is not read along with the query.
        """
        roles = task.roles
        texts = [name for name, role in roles.items() if role.is_input and role.kind in _KINDS]
        for option, name in (("query", self.query), ("into", self.into)):
            if name is not None and name not in texts:
                raise ConfigError(
                    f"knowledge.{option}: the task reads no text with the role {name!r}",
                    hint=f"Its texts: {', '.join(texts) or 'none'}.",
                )
        if not texts:
            raise ConfigError("knowledge: the task reads no text that passages could be added to")
        query = self.query or texts[0]
        together = task.second_text if query == texts[0] else None
        into = self.into or together or query
        if into not in (query, together):
            raise ConfigError(
                f"knowledge.into: the task does not read {into!r} along with {query!r}",
                hint=f"Passages can go into: {', '.join(dict.fromkeys([query, *([together] if together else [])]))}.",
            )
        if self.replace and into == query:
            raise ConfigError(f"knowledge.replace: the passages would take the place of the query, {query!r}")
        return Placement(query=query, into=into, passages=self.passages, replace=self.replace)


class Placement(BaseModel):
    """Where passages go in a row.

    Attributes:
        query: role of the text that is looked up.
        into: role that gets them.
        passages: how many.
        replace: whether they take the place of what the row holds there.
        before_own: whether the training rows held something there, which the passages were put before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    into: str
    passages: int
    replace: bool = False
    before_own: bool = False

    def trained_on(self, table: Table) -> Placement:
        """The same, for rows like these."""
        own = self.into != self.query and self.into in table.columns and not self.replace
        return self.model_copy(update={"before_own": own})

    def queries(self, table: Table) -> list[str]:
        """The text of each row that is looked up; empty if it has none.

        Raises:
            ConfigError: no row has the role.
        """
        if self.query not in table.columns:
            raise ConfigError(
                f"{table.source}: there is no {self.query!r}, which passages are looked up for",
                hint=f"The rows have: {', '.join(table.columns)}. Another role is chosen by knowledge.query.",
            )
        return [_text(row.get(self.query)) for row in table.rows]

    def is_given(self, table: Table) -> bool:
        """Whether the rows hold what passages would take the place of: whoever gave it has looked passages up."""
        return self.into != self.query and self.into in table.columns and not self.before_own

    def add(self, table: Table, found: Sequence[Sequence[str]], *, strict: bool = True) -> Table:
        """The rows with the passages that were found for them.

        Args:
            table: the rows.
            found: passages of each row, the best first.
            strict: refuse a row without a text to look up; if not, it loses its cells, so that its task refuses it.

        Raises:
            DataError: names file, row and column.
        """
        rows = []
        for index, (row, passages) in enumerate(zip(table.rows, found, strict=True)):
            if not passages:
                if strict:
                    raise table.error(index, self.query, "there is no text to look passages up for")
                rows.append(dict.fromkeys(row))
                continue
            there = None if self.replace else row.get(self.into)
            rows.append({**row, self.into: _before("\n".join(passages), there)})
        columns = {**table.columns, self.into: table.columns.get(self.into, self.into)}
        return dataclasses.replace(table, rows=rows, columns=columns, looked_up=self.into)


#: kinds of cells that passages can be added to
_KINDS = ("text", "chat")


def _before(passages: str, cell: Any) -> Any:
    """A cell with passages before its text; of a chat, before the last message of the user."""
    if not isinstance(cell, list):
        return f"{passages}\n\n{cell}" if cell else passages
    last = _last_of_user(cell)
    return [
        {**message, "content": f"{passages}\n\n{text_of(message['content'])}"} if index == last else message
        for index, message in enumerate(cell)
    ]


def _text(cell: Any) -> str:
    """The text of a cell; empty if there is none, or none that could be written in a file."""
    if isinstance(cell, list):
        last = _last_of_user(cell)
        try:
            cell = "" if last is None else text_of(cell[last].get("content"))
        except TypeError:
            return ""
    if not isinstance(cell, str) or not cell.strip():
        return ""
    try:
        cell.encode()
    except UnicodeEncodeError:  # half of a character
        return ""
    return cell


def _last_of_user(messages: Sequence[Any]) -> int | None:
    """The place of the user's last message."""
    found = [n for n, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user"]
    return found[-1] if found else None
