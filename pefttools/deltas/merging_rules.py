"""Ways to combine several adapters' changes of a weight into one, besides their weighted sum.

By PEFT's functions, on dense changes:

ties             the largest entries of each, of which those that agree with the majority's sign are averaged
                 https://arxiv.org/abs/2306.01708
dare-linear      entries dropped at random and the others scaled up, then summed     https://arxiv.org/abs/2311.03099
dare-ties        entries dropped at random, then averaged as by ties
magnitude-prune  the largest entries of each, summed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from pefttools.deltas.adapter import KINDS, AdapterDeltas, SiteDelta
from pefttools.deltas.addition import summed
from pefttools.deltas.dense import Dense
from pefttools.deltas.kind import DeltaKind
from pefttools.deltas.low_rank import LowRank

Rule = Literal["ties", "dare-linear", "dare-ties", "magnitude-prune"]
RULES: tuple[Rule, ...] = ("ties", "dare-linear", "dare-ties", "magnitude-prune")


def combined(
    adapters: Sequence[AdapterDeltas], weights: Sequence[float], rule: Rule, density: float, seed: int
) -> AdapterDeltas:
    """What adapters do at each site, combined by a rule; biases are added, and task heads averaged, as in a sum.

    Args:
        adapters: as `additive` gives them.
        weights: one for each.
        rule: see this module.
        density: share of the entries of each change that is kept.
        seed: seed for the entries that are dropped at random.

    Raises:
        ConfigError: kinds that can't be added up; heads of different shapes.
    """
    sites = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in dict.fromkeys(site for adapter in adapters for site in adapter.sites):
            here = [adapter.sites.get(name, SiteDelta()) for adapter in adapters]
            rest = [summed(kind, name, adapters, weights) for kind in KINDS if kind not in (Dense, LowRank)]
            sites[name] = SiteDelta(_by_rule(here, weights, rule, density), *rest)
    return AdapterDeltas(sites)


def _by_rule(here: Sequence[SiteDelta], weights: Sequence[float], rule: Rule, density: float) -> DeltaKind | None:
    from peft.utils import merge_utils

    found = [_change(delta) for delta in here]
    known = next((one for one in found if one is not None), None)
    if known is None:
        return None
    each = [torch.zeros_like(known) if one is None else one for one in found]
    merge: Callable[..., Any] = getattr(merge_utils, rule.replace("-", "_"))
    change: torch.Tensor = merge(each, torch.tensor(weights, dtype=known.dtype), density)
    return Dense(change)


def _change(delta: SiteDelta) -> torch.Tensor | None:
    """The change of the weight, ``[out, in]``."""
    dense, low = delta.get(Dense), delta.get(LowRank)
    parts = ([] if dense is None else [dense.change]) + ([] if low is None else [low.dense()])
    return torch.stack(parts).sum(0) if parts else None
