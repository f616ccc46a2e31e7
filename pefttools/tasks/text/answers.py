"""What a model answers to a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pefttools.metrics.answers import is_exact
from pefttools.tasks.task import Prediction


@dataclass(frozen=True)
class Candidate:
    """An answer that a model may give.

    Attributes:
        text: as it appears in the context.
        start: its first character there.
        end: the character after it.
        score: its probability, by a softmax over the candidates and "no answer".
    """

    text: str
    start: int
    end: int
    score: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"prediction": self.text, "start": self.start, "end": self.end, "score": round(self.score, 8)}


@dataclass(frozen=True)
class SpanPrediction(Prediction):
    """The answer to one question.

    Attributes:
        answer: a piece of the context; empty if there is none.
        candidates: the best pieces, the best first.
        none: probability of "no answer", by the same softmax.
        margin: score of "no answer" minus that of the best candidate.
        loss: of the windows whose answers are known, summed over starts and ends; in nats.
        tokens: number of those starts and ends.
    """

    answer: str
    candidates: Sequence[Candidate] = ()
    none: float = 1.0
    margin: float = 0.0
    loss: float = 0.0
    tokens: int = 0

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        best = self.candidates[0] if self.answer and self.candidates else None
        found = {"prediction": "", "score": round(self.none, 8)} if best is None else best.as_dict()
        if all_scores:
            found["candidates"] = [one.as_dict() for one in self.candidates]
            found["no_answer"] = round(self.none, 8)
        return found

    def entry(self, reference: Sequence[str]) -> dict[str, Any]:
        return {**super().entry(reference), "correct": is_exact(self.answer, reference)}
