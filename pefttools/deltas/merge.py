"""Folding a delta into the parameters of one layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pefttools.deltas.adapter import SiteDelta
from pefttools.deltas.kind import DeltaKind


def folding_order(delta: SiteDelta) -> list[DeltaKind]:
    """Its parts, in the order in which they are folded into a weight.

    What acts on the module's input is folded in last: it then acts on what the other parts read as well.
    """
    return sorted(delta, key=lambda part: part.on_input)


def weight_change(delta: SiteDelta, weight: torch.Tensor) -> torch.Tensor:
    """How a delta changes a weight ``[out, in]``: the dense form of its linear part, ``[out, in]``."""
    changed = weight
    for part in folding_order(delta):
        changed = part.changed_weight(changed)
    return changed - weight


def bias_change(delta: SiteDelta, bias: torch.Tensor) -> torch.Tensor:
    """How a delta changes a bias ``[out]``."""
    changed = bias
    for part in folding_order(delta):
        changed = part.changed_bias(changed)
    return changed - bias


def folded(parameters: Mapping[str, torch.Tensor], delta: SiteDelta, site: str) -> dict[str, torch.Tensor]:
    """Parameters of a layer with a delta folded in.

    Args:
        parameters: ``weight[out, in]`` and, if there is one, ``bias[out]``; they are not changed.
        delta: what is folded in.
        site: name of the layer, for messages.

    Raises:
        ConfigError: something is not a change of parameters, or there is a bias although the layer has none.
    """
    found = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for part in folding_order(delta.to(next(iter(found.values())).device)):
        found = part.fold(found, site)
    return found
