"""Weighted sums of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pefttools.deltas.adapter import KINDS, AdapterDeltas, SiteDelta
from pefttools.deltas.bias import Bias
from pefttools.deltas.dense import Dense
from pefttools.deltas.kind import DeltaKind
from pefttools.deltas.merge import bias_change, weight_change
from pefttools.deltas.weights import dense_weight
from pefttools.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def additive(deltas: AdapterDeltas, model: nn.Module) -> AdapterDeltas:
    """The same adapter in kinds that can be added: factors on weights become dense changes.

    Raises:
        ConfigError: virtual tokens, or a part that is not a change of weights.
    """
    if deltas.virtual:
        raise ConfigError("it adds virtual tokens, which can't be added up with other adapters")
    return AdapterDeltas({name: _additive(name, delta, model) for name, delta in deltas.sites.items()})


def _additive(name: str, delta: SiteDelta, model: nn.Module) -> SiteDelta:
    if all(_adds_up(part) for part in delta):
        return delta
    for part in delta:
        if not part.linear:
            raise ConfigError(f"its {part.name.replace('_', ' ')} at {name} is not a change of weights")
    module = model.get_submodule(name)
    weight = dense_weight(module).float().cpu()
    own = getattr(module, "bias", None)
    bias = delta.get(Bias) if own is None else Bias(bias_change(delta, own.detach().float().cpu()))
    return SiteDelta(Dense(weight_change(delta, weight)), bias)


def weighted(adapters: Sequence[AdapterDeltas], weights: Sequence[float]) -> AdapterDeltas:
    """The weighted sum of what adapters do at each site.

    Low-rank updates are concatenated, which is exact; biases and dense changes are added. Task heads are averaged
    with the same weights, scaled to sum to one.

    Args:
        adapters: as `additive` gives them.
        weights: one for each.

    Raises:
        ConfigError: kinds that can't be added up; heads of different shapes.
    """
    sites = {
        name: SiteDelta(*(summed(kind, name, adapters, weights) for kind in KINDS))
        for name in dict.fromkeys(site for adapter in adapters for site in adapter.sites)
    }
    return AdapterDeltas(sites)


def summed(
    kind: type[DeltaKind], name: str, adapters: Sequence[AdapterDeltas], weights: Sequence[float]
) -> DeltaKind | None:
    """The weighted sum, or average, of what adapters do at one site in one way; None if none of them does.

    Raises:
        ConfigError: they do not go together.
    """
    found = [adapter.sites[name].get(kind) if name in adapter.sites else None for adapter in adapters]
    parts = [(part, weight) for part, weight in zip(found, weights, strict=True) if part is not None]
    if not parts:
        return None
    if kind.averaged and len(parts) < len(adapters):
        raise ConfigError(f"not all of the adapters have a task head at {name}: they can't be averaged")
    return kind.summed(parts, name)


def _adds_up(part: DeltaKind) -> bool:
    return part.additive or part.averaged
