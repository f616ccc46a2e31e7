"""Tensors that have shapes and no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

#: what a module keeps apart, and what was replaced above
_OWN = ("_parameters", "_buffers", "_modules")


def to_fake(model: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace a meta model's parameters and buffers by fake ones on a device; shared ones stay shared."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            made[id(tensor)] = (
                nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
            )
        return made[id(tensor)]

    kept: list[torch.Tensor] = []

    def replaced(value: Any) -> Any:
        """Tensors that a module keeps as plain attributes, alone or in a dictionary."""
        if isinstance(value, torch.Tensor):
            kept.append(value)
            return fake(value)
        if isinstance(value, dict) and any(isinstance(one, torch.Tensor) for one in value.values()):
            return {key: replaced(one) for key, one in value.items()}
        return value

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    kept.append(tensor)  # so that no id is given twice
                    own[name] = fake(tensor)  # type: ignore[assignment]
        for name, value in list(vars(module).items()):
            if name not in _OWN:
                module.__dict__[name] = replaced(value)
