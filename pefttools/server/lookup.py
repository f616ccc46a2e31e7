"""Passages for the rows of adapters that were trained with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.data import Table
from pefttools.knowledge import Hit, open_index
from pefttools.server.answers import Chosen, UnsuitedError
from pefttools.server.background import Background
from pefttools.tasks.passages import Placement

#: role that a text or a chat gets here, whatever that of the training rows was
_WRITTEN = "text"
#: of each row; None if nothing was looked up for it
Sources = list[list[Hit]] | None


class Lookup:
    """Looks passages up for the rows of a request, one request after the other.

    Args:
        folder: an index of passages; None if the server has none.
        background: of the server: the encoder runs in a thread of its own.

    Raises:
        PeftToolsError: the index is damaged, or its encoder's base can't be found.
    """

    def __init__(self, folder: Path | None, background: Background) -> None:
        self._index = None if folder is None else open_index(folder)
        self._background = background
        if self._index is not None:
            self._index.search(["a first text"], 1)  # loads encoder and passages, before anybody waits

    def check(self, chosen: Chosen) -> None:
        """Refuse an adapter that can't be answered for without passages.

        Raises:
            UnsuitedError: it was trained with passages, and the server has no index.
        """
        if self._index is None and chosen.manifest is not None and chosen.manifest.knowledge is not None:
            raise UnsuitedError(
                f"the adapter {chosen.name!r} was trained on rows with passages that were looked up, and this server "
                "has no index of them",
                hint="Start it with one: pefttools serve --knowledge FOLDER.",
            )

    def check_embedding(self, chosen: Chosen) -> None:
        """Refuse an adapter that embeds texts with passages in them: nothing would name the sources.

        Raises:
            UnsuitedError: it was trained with passages.
        """
        if chosen.manifest is not None and chosen.manifest.knowledge is not None:
            raise UnsuitedError(
                f"the adapter {chosen.name!r} was trained on texts with passages that were looked up, which this "
                "server does not do for texts that are embedded",
                hint="Use pefttools.predict(..., knowledge=FOLDER).",
            )

    async def add(
        self, chosen: Chosen, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[Mapping[str, Any]], Sources]:
        """Rows as the adapter's model reads them, and the passages that they got.

        Raises:
            UnsuitedError: see `check`.
            TooLongError: it took too long.
        """
        placement = None if chosen.manifest is None else chosen.manifest.knowledge
        table = _table(rows)
        if placement is None or placement.is_given(table):
            return rows, None
        found, hits = await self._found(chosen, table, placement)
        return found.rows, hits

    async def add_before(self, chosen: Chosen, texts: Sequence[Any]) -> tuple[Sequence[Any], Sources]:
        """Texts to continue, or chats, with their passages before them; of a chat, before the user's last message.

        Args:
            chosen: the adapter.
            texts: strings, or lists of messages.

        Raises:
            DataError: a text that is empty, or a chat in which the user says nothing. Otherwise as `add`.
        """
        placement = None if chosen.manifest is None else chosen.manifest.knowledge
        if placement is None:
            return texts, None
        here = placement.model_copy(update={"query": _WRITTEN, "into": _WRITTEN, "replace": False})
        found, hits = await self._found(chosen, _table([{_WRITTEN: text} for text in texts]), here)
        return [row[_WRITTEN] for row in found.rows], hits

    async def _found(self, chosen: Chosen, table: Table, placement: Placement) -> tuple[Table, list[list[Hit]]]:
        self.check(chosen)
        assert self._index is not None
        found: tuple[Table, list[list[Hit]]] = await self._background.lookups(self._index.add_to, table, placement)
        return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = {role: role for row in rows for role in row}
    return Table("the request", [dict(row) for row in rows], columns, range(1, len(rows) + 1))
