"""How many rows were cut to a task's longest input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pefttools.data.mapped import MappedItems
from pefttools.tasks.size_unit import TOKENS
from pefttools.tasks.task import Example, Task


@dataclass(frozen=True)
class Cuts:
    """How many rows of one split are longer than their task takes.

    Attributes:
        rows: number of rows.
        cut: how many of them were cut.
        longest: size of the longest, before it was cut.
        limit: what is left of a row that was cut.
        option: the option of the task that sets this.
        unit: unit of both sizes.
        other: what else rows are cut to, in words; empty if nothing.
    """

    rows: int
    cut: int
    longest: int | float
    limit: int | float
    option: str = TOKENS.option
    unit: str = TOKENS.name
    other: str = ""

    @property
    def share(self) -> float:
        """Share of the rows that were cut."""
        return self.cut / self.rows if self.rows else 0.0

    def line(self, what: str) -> str:
        """One line for a log."""
        return (
            f"{what}: {self.cut:,} of {self.rows:,} rows ({self.share:.1%}) are longer than "
            f"task.{self.option}={self.limit}{self.other} {self.unit} and were cut; the longest has {self.longest:,}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Field -> value."""
        return asdict(self)


def is_cut(example: Example, task: Task[Any]) -> bool:
    """Whether an example lacks a part of its row."""
    return bool(example.get("length", 0) > task.size(example))


def cuts_of(examples: Sequence[Example], task: Task[Any]) -> Cuts:
    """Count the examples that were cut."""
    unit = task.size_unit
    limit = unit.shown(task.longest_input or 0)
    if isinstance(examples, MappedItems) and "length" in examples.names:
        whole, left = examples.numbers("length"), task.sizes(examples)
        cut = sum(before > after for before, after in zip(whole, left, strict=True))
        return Cuts(
            len(examples), cut, unit.shown(max(whole, default=0)), limit, unit.option, unit.name, task.other_limit
        )
    rows = cut = longest = 0
    for example in examples:
        rows += 1
        cut += is_cut(example, task)
        longest = max(longest, int(example.get("length", task.size(example))))
    return Cuts(rows, cut, unit.shown(longest), limit, unit.option, unit.name, task.other_limit)
