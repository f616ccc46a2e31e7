"""Metrics of retrieval between pictures and texts, in each direction.

Predictions have ``rankings``: by direction, how the candidates of the other kind are ordered. A picture or a text that
is in several rows is one query, whose ranking only one of the rows has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pefttools.metrics.retrieval import MRR, HitRate, Recall, RetrievalMetric

if TYPE_CHECKING:
    from pefttools.metrics.ranking import Ranked

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")


class _Directed(RetrievalMetric):
    """A metric of one direction, which its name begins with."""

    direction: Direction

    def __init__(self, k: int | None, direction: Direction) -> None:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
        super().__init__(k)  # type: ignore[call-arg,arg-type]
        self.name = f"{direction}_{self.name}"
        self.direction = direction

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        ranking: Ranked | None = prediction.rankings.get(self.direction)
        return (self.score(ranking), 1.0) if ranking is not None and ranking.relevant else (0.0, 0.0)


class DirectedRecall(_Directed, Recall):
    """Share of the right candidates among the first `k`; see `Recall`."""

    def __init__(self, k: int = 1, direction: Direction = "image_to_text") -> None:
        super().__init__(k, direction)


class DirectedHitRate(_Directed, HitRate):
    """Share of queries with a right candidate among the first `k`: what papers on CLIP call R@k."""

    def __init__(self, k: int = 1, direction: Direction = "image_to_text") -> None:
        super().__init__(k, direction)


class DirectedMRR(_Directed, MRR):
    """Mean reciprocal rank; see `MRR`."""

    def __init__(self, k: int | None = 10, direction: Direction = "image_to_text") -> None:
        super().__init__(k, direction)
