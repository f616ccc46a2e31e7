"""Metrics of retrieval: how high the right candidates of a query rank.

Predictions have a ``ranking``, see `pefttools.metrics.ranking`. Each metric is the mean over the queries; a query
without a right candidate counts in none, as in sentence-transformers.

References:
    Järvelin, K. and Kekäläinen, J. (2002). Cumulated gain-based evaluation of IR techniques. ACM TOIS 20.
    Voorhees, E. M. (1999). The TREC-8 question answering track report. TREC 8.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pefttools.metrics.additive import AdditiveMetric
from pefttools.metrics.metric import Measure
from pefttools.metrics.ranking import Ranked, ideal_gain

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers


class RetrievalMetric(AdditiveMetric):
    """A mean over queries.

    Attributes:
        k: number of places that are considered; None for all.
    """

    measure = Measure.share()

    def __init__(self, name: str, k: int | None) -> None:
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"k must be a positive integer, not {k!r}")
        self.name = name if k is None else f"{name}@{k}"
        self.k = k

    @abstractmethod
    def score(self, ranking: Ranked) -> float:
        """The score of one query that has some right candidate."""

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        ranking: Ranked = prediction.ranking
        return (self.score(ranking), 1.0) if ranking.relevant else (0.0, 0.0)

    def value(self, total: Numbers) -> Numbers:
        return total[..., 0] / total[..., 1]


class Recall(RetrievalMetric):
    """Share of a query's right candidates that are among the first `k`, as in trec_eval, ranx and BEIR.

    If a query has more than `k` right ones, it can't reach 1. What metric learning calls recall@k is `HitRate`.
    """

    def __init__(self, k: int = 10) -> None:
        super().__init__("recall", k)
        self._k = k

    def score(self, ranking: Ranked) -> float:
        return ranking.found(self._k) / ranking.relevant


class HitRate(RetrievalMetric):
    """Share of queries with a right candidate among the first `k`: ``accuracy@k`` in sentence-transformers."""

    def __init__(self, k: int = 1) -> None:
        super().__init__("hit_rate", k)
        self._k = k

    def score(self, ranking: Ranked) -> float:
        return ranking.hit(self._k)


class MRR(RetrievalMetric):
    """Mean reciprocal rank: 1 / place of the first right candidate, 0 beyond `k`; ``k: null`` for no limit."""

    def __init__(self, k: int | None = 10) -> None:
        super().__init__("mrr", k)

    def score(self, ranking: Ranked) -> float:
        return ranking.reciprocal(self.k)


class NDCG(RetrievalMetric):
    """Normalised discounted cumulative gain: each right candidate among the first `k` adds ``1 / log2(1 + place)``.

    The sum is divided by what the best order would give.
    """

    def __init__(self, k: int = 10) -> None:
        super().__init__("ndcg", k)
        self._k = k

    def score(self, ranking: Ranked) -> float:
        return ranking.gain(self._k) / ideal_gain(min(self._k, ranking.relevant))
