"""Passages for the rows of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pefttools.data import Splits, Table
from pefttools.knowledge import KnowledgeIndex, open_index
from pefttools.progress import Reporter
from pefttools.tasks.passages import KnowledgeConfig, Placement
from pefttools.tasks.task import Task


@dataclass(frozen=True)
class Knowledge:
    """An index, and where what is found in it goes.

    Attributes:
        index: the index.
        placement: where passages go in a row.
        reporter: shows how many rows have theirs.
    """

    index: KnowledgeIndex
    placement: Placement
    reporter: Reporter | None = None

    def columns(self, task: Task[Any], *, labelled: bool = True) -> dict[str, bool]:
        """What a table must have: not what comes from the index."""
        columns = task.columns(labelled=labelled)
        return columns if self.placement.into == self.placement.query else {**columns, self.placement.into: False}

    def add_to(self, table: Table) -> Table:
        """Rows with their passages, which are kept in the cache."""
        return self.index.add_to(table, self.placement, reporter=self.reporter, keep=True)[0]

    def add_to_splits(self, splits: Splits) -> Splits:
        """Splits with the passages of each row."""
        found = {name: self.add_to(table) for name, table in splits.tables().items()}
        return Splits(found["train"], found["validation"], found.get("test"), splits.notes, given=splits)

    def trained_on(self, splits: Splits) -> Knowledge:
        """The same, with what the artifact says of its rows; the index's encoder is not needed any more."""
        self.index.release()
        return Knowledge(self.index, self.placement.trained_on((splits.given or splits).train))


def open_knowledge(config: KnowledgeConfig, task: Task[Any], reporter: Reporter | None = None) -> Knowledge:
    """The index of a recipe.

    Raises:
        ArtifactError: there is none, or it is damaged.
        ConfigError: the task has no place for passages.
    """
    placement = config.placement(task)
    return Knowledge(open_index(config.index), placement, reporter)
