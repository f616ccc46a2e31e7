"""Pictures and their texts: which is a candidate for which, and what a model gives for a row."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pefttools.metrics.cross_modal import Direction
from pefttools.metrics.ranking import Ranked
from pefttools.tasks.embedding.embedding_prediction import EmbeddingPrediction
from pefttools.tasks.evaluation import Prediction
from pefttools.tasks.types import Example

if TYPE_CHECKING:
    from pefttools.metrics.ranking import Places


class Pair(NamedTuple):
    """What is known of a row.

    Attributes:
        picture: identifies its picture: the path of its file, or a digest of its bytes.
        text: the text that belongs to it.
    """

    picture: str
    text: str

    @classmethod
    def of(cls, example: Example) -> Pair:
        """Of a labelled example."""
        return cls(picture_key(example["image"]), example["text"])


def picture_key(cell: Any) -> str:
    """What identifies a picture."""
    return hashlib.blake2b(cell, digest_size=16).hexdigest() if isinstance(cell, bytes) else str(cell)


@dataclass(frozen=True)
class Sides:
    """The candidates of a split in one direction.

    Attributes:
        first: per distinct candidate, the first row that has it.
        queries: per distinct query, the same.
        relevant: per row, the numbers of the right ones.
    """

    first: Sequence[int]
    queries: frozenset[int]
    relevant: Sequence[Places]

    @classmethod
    def of(cls, rows: Sequence[Pair], direction: Direction) -> Sides:
        """Of all rows of a split: every different text for each picture, or every different picture for each text."""
        import numpy as np

        numbers: dict[str, int] = {}
        first: list[int] = []
        right: dict[str, set[int]] = {}
        queries: dict[str, int] = {}
        for index, row in enumerate(rows):
            query, candidate = (row.picture, row.text) if direction == "image_to_text" else (row.text, row.picture)
            if candidate not in numbers:
                numbers[candidate] = len(first)
                first.append(index)
            right.setdefault(query, set()).add(numbers[candidate])
            queries.setdefault(query, index)
        arrays = {query: np.array(sorted(one)) for query, one in right.items()}
        asked = (row.picture if direction == "image_to_text" else row.text for row in rows)
        return cls(first, frozenset(queries.values()), [arrays[query] for query in asked])


@dataclass(frozen=True)
class ImageTextPrediction(Prediction):
    """The vectors of one row.

    Attributes:
        answer: of its picture, or of its text if it has no picture: an array of floats.
        text: of its text, until all rows are ranked; None if it has none.
        pair: what belongs together; None if the row has only a picture or only a text.
        similarity: cosine of both; None if it has only one.
        rankings: by direction, where the right candidates rank, once all are ranked; for a query that is in
            several rows, only in the first of them.
        nearest: the text nearest to the picture.
    """

    answer: Any
    text: array[float] | None = None
    pair: Pair | None = None
    similarity: float | None = None
    rankings: Mapping[Direction, Ranked] = field(default_factory=dict)
    nearest: str | None = None

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        found = {"prediction": self.shown(self.answer)}
        return found if self.similarity is None else {**found, "similarity": round(self.similarity, 8)}

    def shown(self, answer: Any) -> Any:
        return answer.text if isinstance(answer, Pair) else EmbeddingPrediction(None).shown(answer)

    def says(self, other: Prediction) -> bool:
        """Whether the same was found, if candidates were ranked: no two vectors agree in all digits."""
        if not self.rankings or not isinstance(other, ImageTextPrediction):
            return super().says(other)
        return (self.rankings, self.nearest) == (other.rankings, other.nearest)

    def entry(self, reference: Any) -> dict[str, Any]:
        """What was found first, not the vectors."""
        found: dict[str, Any] = {"prediction": self.nearest, "reference": self.shown(reference)}
        for direction, ranking in self.rankings.items():
            found[f"{direction}_reciprocal_rank"] = ranking.reciprocal(None)
        if (forward := self.rankings.get("image_to_text")) is not None:
            found["correct"] = bool(forward.hit(1))
        return found


def prediction(picture: array[float] | None, text: array[float] | None, pair: Pair | None) -> ImageTextPrediction:
    """What a model gives for a row, from its vectors of length 1."""
    if picture is None or text is None:
        return ImageTextPrediction(text if picture is None else picture)
    similarity = math.fsum(one * other for one, other in zip(picture, text, strict=True))
    return ImageTextPrediction(picture, text, pair, similarity)
