"""What objectives share that learn from rows without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.step import Step
    from pefttools.tasks.types import Batch


class ReadsUnlabelled:
    """The part of an objective that reads rows without labels, a batch for each pass over the labelled ones.

    Which rows come next is in its checkpoints.
    """

    _batch_of: Callable[[int, int], Batch] | None = None
    _seen = 0

    def receive(self, batch_of: Callable[[int, int], Batch]) -> None:
        """See `Objective.receive`."""
        self._batch_of = batch_of

    def beside(self, step: Step) -> Step:
        """A step over the next of them, as many as the step has rows.

        In a step that is only measured, the rows themselves stand for those without labels.
        """
        rows = len(step.labels)
        batch = step.batch if self._batch_of is None else self._batch_of(self._seen, rows)
        self._seen += 1
        return step.over(batch)

    def state(self) -> dict[str, torch.Tensor]:
        """See `Objective.state`."""
        import torch

        return {"seen": torch.tensor(self._seen)}

    def restore_state(self, state: dict[str, torch.Tensor]) -> None:
        """See `Objective.restore_state`."""
        self._seen = int(state["seen"])
