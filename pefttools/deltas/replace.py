"""Parameters that replace a module's own: task heads, norms."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from pefttools.bases.unquantized import SIXTEEN_BITS
from pefttools.deltas.kind import DeltaKind
from pefttools.errors import ConfigError


@dataclass(frozen=True)
class Replace(DeltaKind):
    """The module with other parameters.

    Attributes:
        parameters: the module's own, by name.
    """

    name: ClassVar[str] = "replace"
    averaged: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    stacked: ClassVar[bool] = False

    parameters: dict[str, torch.Tensor]

    def norm(self) -> float:
        return float(sum(tensor.float().square().sum() for tensor in self.parameters.values()) ** 0.5)

    def fold(self, parameters: Mapping[str, torch.Tensor], site: str) -> dict[str, torch.Tensor]:
        return {**parameters, **{name: value.to(parameters[name]) for name, value in self.parameters.items()}}

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        """Their average with these weights."""
        shapes = [{name: tuple(value.shape) for name, value in part.parameters.items()} for part, _ in parts]
        if any(shape != shapes[0] for shape in shapes):
            raise ConfigError(f"the task heads at {site} have different shapes: they can't be averaged")
        total = sum(weight for _, weight in parts)
        return cls(
            {
                name: torch.stack([part.parameters[name] * (weight / total) for part, weight in parts]).sum(0)
                for name in shapes[0]
            }
        )

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        # What was trained in float32 is not rounded to a base's 16 bits, in which small changes of a norm are lost.
        wide = {name: p.float() for name, p in module._parameters.items() if p is not None and p.dtype in SIXTEEN_BITS}
        other = twin(module, {**wide, **self.parameters}, keep=bool(wide))

        def put(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = other(x.float() if wide and x.is_floating_point() else x)
            return found.to(y.dtype)

        return put


def twin(module: nn.Module, parameters: Mapping[str, torch.Tensor], *, keep: bool = False) -> nn.Module:
    """A module without hooks that shares everything with another except the given parameters.

    The module itself is never given other parameters, not even for a moment: another thread may be reading it.

    Args:
        module: the module.
        parameters: parameters in place of its own.
        keep: whether to keep them in the number format that they have; if not, in the module's.
    """
    other = copy.copy(module)
    other._parameters = dict(module._parameters)
    other._forward_hooks, other._forward_pre_hooks = OrderedDict(), OrderedDict()
    for name, value in parameters.items():
        own = module.get_parameter(name)
        fitted = value.to(own.device, value.dtype if keep else own.dtype)
        other._parameters[name] = nn.Parameter(fitted, requires_grad=False)
    return other
