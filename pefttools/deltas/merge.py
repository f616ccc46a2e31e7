"""Folding a delta into the parameters of one layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pefttools.deltas.kinds import SiteDelta
from pefttools.errors import ConfigError


def weight_change(delta: SiteDelta, weight: torch.Tensor) -> torch.Tensor:
    """How a delta changes a weight ``[out, in]``: the dense form of its linear part, ``[out, in]``."""
    changed = weight
    if delta.low_rank is not None:
        changed = changed + delta.low_rank.dense()
    if delta.dense is not None:
        changed = changed + delta.dense
    if delta.input_scale is not None:
        changed = changed * delta.input_scale
    for scale in (delta.weight_scale, delta.output_scale):
        if scale is not None:
            changed = changed * scale.unsqueeze(1)
    return changed - weight


def bias_change(delta: SiteDelta, bias: torch.Tensor) -> torch.Tensor:
    """How a delta changes a bias ``[out]``."""
    changed = bias if delta.output_scale is None else bias * delta.output_scale
    return (changed if delta.bias is None else changed + delta.bias) - bias


def folded(parameters: Mapping[str, torch.Tensor], delta: SiteDelta, site: str) -> dict[str, torch.Tensor]:
    """Parameters of a linear layer with a delta folded in.

    Args:
        parameters: ``weight[out, in]`` and, where there is one, ``bias[out]``; they stay as they are.
        delta: what is folded in.
        site: name of the layer, for messages.

    Raises:
        ConfigError: a bottleneck, which is no change of parameters; a bias where the layer has none.
    """
    if delta.bottleneck is not None:
        raise ConfigError(f"the bottleneck adapter at {site} can't be folded into the module's weights")
    found = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    delta = delta.to(next(iter(found.values())).device)
    if delta.replace is not None:
        return {**found, **{name: value.to(found[name]) for name, value in delta.replace.items()}}
    if delta.bias is not None and "bias" not in found:
        raise ConfigError(f"the module {site} has no bias that could take the adapter's")
    if delta.kinds() != ["bias"]:
        found["weight"] += weight_change(delta, found["weight"])
    if "bias" in found:
        found["bias"] += bias_change(delta, found["bias"])
    return found
