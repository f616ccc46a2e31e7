"""What a model gives for a text that it embeds."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pefttools.metrics.ranking import Ranked
from pefttools.tasks.embedding.retrieval_rows import Known
from pefttools.tasks.evaluation import Prediction

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EmbeddingPrediction(Prediction):
    """The embedding of one text.

    Attributes:
        answer: its numbers, an array of floats.
        known: what is known of its row.
        others: embeddings of the row's other texts, until they are ranked.
        ranking: where the right candidates rank, once all are ranked.
        nearest: text or label of the first candidate.
    """

    answer: Any
    known: Known | None = None
    others: Sequence[array[float]] = ()
    ranking: Ranked | None = None
    nearest: str | None = None

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        return {"prediction": self.shown(self.answer)}

    def shown(self, answer: Any) -> Any:
        if isinstance(answer, Known):
            return answer.shown
        return [round(number, 8) for number in answer] if isinstance(answer, array) else answer

    def says(self, other: Prediction) -> bool:
        """Whether the same was found, if candidates were ranked: no two embeddings agree in all digits."""
        if self.ranking is None or not isinstance(other, EmbeddingPrediction):
            return super().says(other)
        return (self.ranking, self.nearest) == (other.ranking, other.nearest)

    def entry(self, reference: Any) -> dict[str, Any]:
        """What was found first, not the embedding."""
        found: dict[str, Any] = {"prediction": self.nearest, "reference": self.shown(reference)}
        if self.ranking is not None and self.ranking.relevant:
            found["correct"] = bool(self.ranking.hit(1))
            found["reciprocal_rank"] = self.ranking.reciprocal(None)
        return found


def as_array(row: torch.Tensor) -> array[float]:
    """An embedding with four bytes per number."""
    return array("f", row.tolist())
