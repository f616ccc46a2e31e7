"""Batches that represent all those that the resident adapters can form, to compile for them ahead of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from pefttools.pool.adapter_cache import Resident


@dataclass(frozen=True)
class WarmUp:
    """What `AdapterPool.warm_up` did.

    Attributes:
        graphs: number of graphs that torch.compile made.
        seconds: how long it took.
    """

    graphs: int
    seconds: float


def typical_batches(residents: Iterable[Resident], causal: bool, rows: Sequence[int]) -> list[list[str | None]]:
    """Names of the rows' adapters, per batch.

    Which graph runs depends on the kinds of virtual tokens in a batch, on whether the language head runs, and on
    whether there is one row or more. It does not depend on which other adapters there are: all of them are in every
    graph.

    Args:
        residents: the adapters.
        causal: whether the base has a language head.
        rows: sizes of batches.
    """
    groups: dict[tuple[frozenset[str], bool], str | None] = {(frozenset(), causal): None}
    for one in residents:
        if not one.allocation.unstacked:  # such rows are never compiled
            groups.setdefault((frozenset(one.allocation.lengths), causal and one.prepared.head.language), one.name)
    batches: dict[tuple[frozenset[str], bool, int], list[str | None]] = {}
    for size in range(1, min(3, len(groups)) + 1):  # two kinds of virtual tokens, and the language head
        for some in combinations(groups, size):
            kinds, language = frozenset().union(*(kinds for kinds, _ in some)), any(head for _, head in some)
            for wanted in rows:
                count = wanted if wanted == 1 else max(wanted, size)  # all sizes above one share their graphs
                if count >= size:
                    names = [groups[group] for group in some]
                    batches.setdefault(
                        (kinds, language, min(count, 2)), [names[index % size] for index in range(count)]
                    )
    return list(batches.values())
