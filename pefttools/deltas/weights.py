"""Weights of base modules and stored states, as plain tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pefttools.deltas.adapter import SiteDelta
from pefttools.deltas.replace import Replace


def read_state(file: Path, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; floating point ones in float64 for a model in float64, else in float32."""
    from safetensors.torch import load_file

    parameter = None if model is None else next(model.parameters(), None)
    dtype = torch.float64 if parameter is not None and parameter.dtype == torch.float64 else torch.float32
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in load_file(file).items()}


def dense_weight(module: nn.Module) -> torch.Tensor:
    """Weight of a linear layer as ``[out, in]`` in floating point, dequantized if it is quantized."""
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    own: Any = module._parameters.get("weight")
    if hasattr(own, "__tensor_flatten__"):  # torchao's, which PEFT treats as plain ones
        plain: torch.Tensor = own.dequantize().detach()
        return plain
    weight: torch.Tensor = dequantize_module_weight(module)
    # PEFT puts a copy of an int8 weight in its place, with which bitsandbytes starts afresh and finds no scales.
    if own is not None:
        module._parameters["weight"] = own
    if isinstance(module, Conv1D):
        weight = weight.T
    return weight.detach()


def split_heads(
    state: dict[str, torch.Tensor], heads: Iterable[str]
) -> tuple[dict[str, torch.Tensor], dict[str, SiteDelta]]:
    """Split a state, by parameter name, into fully trained modules and the rest.

    Args:
        state: parameters by their name in the transformers model.
        heads: names of fully trained modules.

    Returns:
        The rest, and per head module a delta that replaces its parameters.
    """
    rest = dict(state)
    replaced: dict[str, SiteDelta] = {}
    for head in heads:
        inside = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{head}.")}
        if inside:
            replaced[head] = SiteDelta(Replace({name[len(head) + 1 :]: t for name, t in inside.items()}))
    return rest, replaced
