"""Pareto fronts: what nothing else beats in both score and cost."""

from __future__ import annotations

from collections.abc import Iterable


def front(points: Iterable[tuple[float | None, float | None]]) -> set[int]:
    """Indices of the points that no other beats.

    Args:
        points: score (higher is better) and cost (lower is better) of each; one that lacks either is not on the front.
    """
    known = [
        (index, score, cost) for index, (score, cost) in enumerate(points) if score is not None and cost is not None
    ]
    return {
        index
        for index, score, cost in known
        if not any(
            (other >= score and cheaper <= cost) and (other > score or cheaper < cost) for _, other, cheaper in known
        )
    }
