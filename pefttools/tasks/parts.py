"""Rows of which the model reads several parts, each on its own: windows of a long text, one part per choice."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from pefttools.tasks.types import Example

if TYPE_CHECKING:
    import torch

    from pefttools.tasks.scoring import ScoredTask


class Parts(Sequence[Example]):
    """The parts of rows, one after the other; each is made on demand.

    Args:
        task: splits rows into parts, see `Task.parts`.
        rows: encoded.
    """

    def __init__(self, task: ScoredTask[Any], rows: Sequence[Example]) -> None:
        self._task = task
        self._rows = rows
        #: the number of the first part of each row, and the number of all parts
        self._starts: array[int] = array("q", [0])
        #: of each part, see `Task.size`
        self.sizes: array[int] | list[int] = array("q")
        self._last: tuple[int, Sequence[Example]] = (-1, ())
        if not task.has_parts:
            self.sizes = task.sizes(rows)
            self._starts = array("q", range(len(rows) + 1))
            return
        for row in rows:
            self.sizes.extend(task.size(part) for part in task.parts(row))
            self._starts.append(len(self.sizes))

    def row(self, index: int) -> int:
        """The number of the row that a part belongs to."""
        return bisect_right(self._starts, index) - 1

    def place(self, index: int) -> int:
        """Which of its row's parts it is."""
        return index - self._starts[self.row(index)]

    def count(self, row: int) -> int:
        """Number of a row's parts."""
        return self._starts[row + 1] - self._starts[row]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else int(index)
        if not 0 <= at < len(self):
            raise IndexError(f"{index} of {len(self)} parts")
        row, last = self.row(at), self._last
        if last[0] != row:  # parts of one row are usually read one after the other
            last = self._last = row, self._task.parts(self._rows[row])
        return last[1][at - self._starts[row]]

    def regrouped(self, results: Sequence[Any]) -> list[list[Any]]:
        """The results of the parts, grouped by row."""
        return [list(results[a:b]) for a, b in zip(self._starts, self._starts[1:], strict=False)]


def joined(logits: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The logits of a row's parts, one after the other; None if a part has none.

    Args:
        logits: ``[outputs]``, or ``[tokens, outputs]`` without padding, of each part.
    """
    import torch

    found = [one for one in logits if one is not None]
    if len(found) < len(logits):
        return None
    return found[0] if len(found) == 1 else torch.cat(found)
