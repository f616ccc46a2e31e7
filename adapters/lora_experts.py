"""LoRA on mixtures of experts: which layers PEFT is told to adapt, and the weights of fused experts."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pefttools.errors import TargetError

if TYPE_CHECKING:
    from torch import nn


class Exact(str):
    """A target that PEFT takes literally.

    PEFT interprets ``gate_proj``, ``up_proj`` and ``down_proj`` of many mixtures as names of an older transformers,
    where each expert had layers with these names. It then ignores the linear layers that have these names today (shared
    experts, dense layers), and adapts the routed experts instead. It recognizes such names by their end.
    """

    __slots__ = ()

    def endswith(self, *_: Any) -> bool:  # as PEFT asks
        return False


def exact(targets: Iterable[str]) -> list[str]:
    """Targets, of which PEFT takes those written by this package (they contain dots) literally."""
    return [Exact(target) if "." in target else target for target in targets]


class _Ordered(str):
    """A parameter's name that sorts by its place in the model.

    PEFT nests the wrappers of several parameters of one module: in the module's order, but in the order of their names
    if they are quantized. An adapter trained on one base would not fit the other.
    """

    __slots__ = ("place",)
    place: int

    def __lt__(self, other: object) -> bool:
        return self.place < getattr(other, "place", 0)


def in_order(names: Iterable[str], model: nn.Module) -> list[str]:
    """Parameters for PEFT to wrap in the model's order.

    Args:
        names: full names or ends of them.
        model: the model whose fused weights the names refer to.
    """
    from pefttools.sites import fused_weights

    given = list(names)
    found = [full for full in fused_weights(model) if any(f".{full}".endswith(f".{name}") for name in given)]
    others = [name for name in given if not any(f".{full}".endswith(f".{name}") for full in found)]
    ordered: list[str] = []
    for place, name in enumerate([*found, *others]):
        one = _Ordered(name)
        one.place = place
        ordered.append(one)
    return ordered


def experts_of(model: nn.Module) -> list[str]:
    """Full names of the weights of fused experts.

    Raises:
        TargetError: the model has none.
    """
    from pefttools.sites import fused_weights

    listed = [
        name for name in fused_weights(model) if "Expert" in type(model.get_submodule(name.rpartition(".")[0])).__name__
    ]
    if not listed:
        raise TargetError(
            "lora.experts: the model has no fused experts",
            hint="Experts that are separate linear layers are among lora.targets; leave lora.experts off.",
        )
    return in_order(listed, model)


def packed_experts(model: nn.Module) -> list[Any]:
    """PEFT's wrappers of experts whose weights are quantized."""
    from peft.tuners.lora.layer import ParamWrapper
    from torch.nn.utils.parametrize import is_parametrized

    wrappers = (module for module in model.modules() if isinstance(module, ParamWrapper))
    return [wrapper for wrapper in wrappers if is_parametrized(wrapper.get_base_layer())]


def take_back_updates(model: nn.Module) -> None:
    """Make PEFT's wrappers of packed experts remove their update from the weight after each pass.

    PEFT 0.21 leaves it there, so that the next pass adds a second one: among several parametrizations it looks for
    a different class from the one that it has added.
    """
    for wrapper in packed_experts(model):
        wrapper._remove_parametrizations = types.MethodType(_remove_last, wrapper)


def _remove_last(wrapper: Any) -> None:
    chain = wrapper.get_base_layer().parametrizations[wrapper.parameter_name]
    del chain[len(chain) - 1]
