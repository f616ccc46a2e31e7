"""Folding a delta into the parameters of one module."""

from __future__ import annotations

import torch
from torch import nn

from pefttools.deltas.kinds import SiteDelta
from pefttools.deltas.weights import dense_weight
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
            changed = changed * scale[:, None]
    return changed - weight


def bias_change(delta: SiteDelta, bias: torch.Tensor) -> torch.Tensor:
    """How a delta changes a bias ``[out]``."""
    changed = bias if delta.output_scale is None else bias * delta.output_scale
    return (changed if delta.bias is None else changed + delta.bias) - bias


def folded(module: nn.Module, delta: SiteDelta, site: str) -> dict[str, torch.Tensor]:
    """Parameters of a module with a delta folded in, by name; the module itself stays as it is.

    Raises:
        ConfigError: a bottleneck, which is no change of parameters; a bias where the module has none.
    """
    if delta.bottleneck is not None:
        raise ConfigError(f"the bottleneck adapter at {site} can't be folded into the module's weights")
    parameters = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    if delta.replace is not None:
        return {**parameters, **{name: t.to(parameters[name]) for name, t in delta.replace.items()}}
    if delta.kinds() != ["bias"]:
        weight = dense_weight(module)
        change = weight_change(delta, weight)
        parameters["weight"] += change if parameters["weight"].shape == change.shape else change.T
    if delta.bias is not None or delta.output_scale is not None:
        if "bias" not in parameters:
            if delta.bias is not None:
                raise ConfigError(f"the module {site} has no bias that could take the adapter's")
        else:
            parameters["bias"] += bias_change(delta, parameters["bias"])
    return parameters
