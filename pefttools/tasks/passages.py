"""Passages that were found for a row, as a part of what its model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.tasks.roles import Role


class KnowledgeConfig(BaseModel):
    """The `knowledge` part of a recipe: passages are looked up for each row and added to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: Path = Field(description="folder of an index of passages; see `pefttools index`")
    query: str | None = Field(None, description="role of the text that is looked up; by default the task's first role")
    into: str | None = Field(
        None,
        description="role that gets the passages, before what it holds already; by default the task's second text, "
        "else the query's own",
    )
    passages: int = Field(3, ge=1, le=100, description="number of passages for a row")
    replace: bool = Field(False, description="put the passages in the place of what the row holds there, not before it")

    def placement(self, roles: Mapping[str, Role]) -> Placement:
        """Where the passages go in a task's rows.

        Raises:
            ConfigError: the task has no such role, or it does not hold a text.
        """
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
        others = [name for name in texts if name != query and roles[name].kind == "text"]
        into = self.into or (others[0] if others and roles[query].kind == "text" else query)
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    into: str
    passages: int
    replace: bool = False

    def queries(self, table: Table) -> list[str]:
        """The text of each row that is looked up; empty if it has none, which its task will refuse."""
        found = []
        for row in table.rows:
            cell = row.get(self.query)
            text = _last_of_user(cell) if isinstance(cell, list) else cell
            found.append(text if isinstance(text, str) else "")
        return found

    def is_given(self, table: Table) -> bool:
        """Whether rows have what passages would be put into: whoever gave them has looked passages up already."""
        return self.into != self.query and self.into in table.columns

    def add(self, table: Table, found: Sequence[Sequence[str]]) -> Table:
        """The rows with the passages that were found for them.

        Args:
            table: the rows.
            found: passages of each row, the best first.
        """
        rows = []
        for row, passages in zip(table.rows, found, strict=True):
            there = None if self.replace else row.get(self.into)
            rows.append({**row, self.into: _before("\n".join(passages), there) if passages else there})
        columns = {**table.columns, self.into: table.columns.get(self.into, self.into)}
        return dataclasses.replace(table, rows=rows, columns=columns, looked_up=self.into)


#: kinds of cells that passages can be added to
_KINDS = ("text", "chat")


def _before(passages: str, cell: Any) -> Any:
    """A cell with passages before its text; of a chat, before the last message of the user."""
    if not isinstance(cell, list):
        return f"{passages}\n\n{cell}" if cell else passages
    last = max(index for index, message in enumerate(cell) if message.get("role") == "user")
    return [
        {**message, "content": f"{passages}\n\n{message['content']}"} if index == last else message
        for index, message in enumerate(cell)
    ]


def _last_of_user(messages: Sequence[Any]) -> Any:
    found = [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    return found[-1] if found else None
