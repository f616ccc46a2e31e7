"""Which adapter a request goes to, and what its rows get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pefttools.artifact import Manifest
from pefttools.errors import DataError, PeftToolsError
from pefttools.tasks import Task
from pefttools.tasks.cuts import is_cut
from pefttools.tasks.task import Example, Prediction


class UnsuitedError(PeftToolsError):
    """A model that there is, but that can't do what it is asked: HTTP 404, as OpenAI says it."""


@dataclass(frozen=True)
class Chosen:
    """The version of an adapter that a request goes to; it stays the same for the whole request.

    Attributes:
        name: in the pool, ``acme@3``; None: the base.
        manifest: of the adapter.
        owner: whose turn it takes: the caller's, or the adapter's where callers have no keys.
    """

    name: str | None
    manifest: Manifest | None
    owner: str = ""

    def task(self) -> Task[Any] | None:
        """Its task; None for the base."""
        if self.manifest is None:
            return None
        return self.manifest.task.stored("the manifest's task")


@dataclass(frozen=True)
class Answered:
    """What one row of a request got.

    Attributes:
        example: its tokens; None where there is an error.
        error: why the row could not be taken.
        cut_from: its length, where it was cut: in tokens, or in seconds of a sound.
        prediction: what the adapter says.
    """

    example: Example | None = None
    error: str | None = None
    cut_from: float | None = None
    prediction: Prediction | None = None

    @classmethod
    def of(cls, example: Example | DataError, task: Task[Any]) -> Answered:
        """A row that waits for its prediction, or has an error."""
        if isinstance(example, DataError):
            return cls(error=example.message)
        return cls(example, cut_from=task.size_unit.shown(int(example["length"])) if is_cut(example, task) else None)

    def as_dict(self, *, all_scores: bool) -> dict[str, Any]:
        """Plain values, for JSON."""
        if self.prediction is None:
            return {"error": {"message": self.error}}
        cut = {} if self.cut_from is None else {"cut_from": self.cut_from}
        return {**self.prediction.as_dict(all_scores=all_scores), **cut}
