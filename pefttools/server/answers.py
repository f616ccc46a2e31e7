"""Which adapter a request goes to, and the results of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pefttools.artifact import Manifest
from pefttools.errors import DataError, PeftToolsError
from pefttools.knowledge import Hit, cited
from pefttools.tasks import Task
from pefttools.tasks.cuts import is_cut
from pefttools.tasks.task import Example, Prediction


class UnsuitedError(PeftToolsError):
    """A model that exists but can't do what is asked of it: HTTP 404, as in OpenAI's API."""


@dataclass(frozen=True)
class Chosen:
    """The version of an adapter that a request goes to; it stays the same for the whole request.

    Attributes:
        name: in the pool, ``acme@3``; None for the base.
        manifest: the adapter's manifest.
        owner: whose turn it takes: the caller's, or the adapter's if callers have no keys.
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
    """The result of one row of a request.

    Attributes:
        example: its tokens; None if there is an error.
        error: why the row could not be taken.
        cut_from: its full length, if it was truncated: in tokens, or in seconds for audio.
        prediction: what the adapter predicts.
        sources: the passages that were looked up for it; None if none were.
    """

    example: Example | None = None
    error: str | None = None
    cut_from: float | None = None
    prediction: Prediction | None = None
    sources: Sequence[Hit] | None = None

    @classmethod
    def of(cls, example: Example | DataError, task: Task[Any]) -> Answered:
        """A row that is yet to be predicted, or has an error."""
        if isinstance(example, DataError):
            return cls(error=example.message)
        return cls(example, cut_from=task.size_unit.shown(int(example["length"])) if is_cut(example, task) else None)

    def as_dict(self, *, all_scores: bool) -> dict[str, Any]:
        """Plain values, for JSON."""
        if self.prediction is None:
            return {"error": {"message": self.error}}
        cut = {} if self.cut_from is None else {"cut_from": self.cut_from}
        return {**self.prediction.as_dict(all_scores=all_scores), **cut, **cited(self.sources)}
