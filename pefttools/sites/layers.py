"""Layers: which are linear, their sizes, and weights that are fused or packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pefttools.errors import TargetError

if TYPE_CHECKING:
    from torch import nn


def is_linear(module: nn.Module) -> bool:
    """A linear layer, quantized or not, or the transposed kind of GPT-2.

    Routers of mixtures of experts are subclasses that return choices, not a product: what has its own forward pass
    counts as linear only if its name says so.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, nn.Linear | Conv1D):
        return False
    kind = type(module)
    return kind.forward in (nn.Linear.forward, Conv1D.forward) or "Linear" in kind.__name__


def output_size(module: nn.Module) -> int:
    """Size of a linear layer's output."""
    size = getattr(module, "out_features", None) or getattr(module, "nf", None)
    if not isinstance(size, int):
        raise TargetError(f"{type(module).__name__} is not a linear layer")
    return size


def input_size(module: nn.Module) -> int:
    """Size of a linear layer's input."""
    size = getattr(module, "in_features", None) or getattr(module, "nx", None)
    if not isinstance(size, int):
        raise TargetError(f"{type(module).__name__} is not a linear layer")
    return size


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by name, without those that a method has added to the base.

    These say so by ``of_adapter``; PEFT's stand around a layer of the base, their ``base_layer``, and have its name.
    """
    from torch import nn

    added: list[str] = []
    for name, module in model.named_modules():
        if added and f"{name}.".startswith(tuple(added)):
            continue
        own = module
        while hasattr(own, "adapter_layer_names") and isinstance(inner := getattr(own, "base_layer", None), nn.Module):
            own = inner
        if own is not module:
            added.append(f"{name}.")
        if getattr(own, "of_adapter", False):
            added.append(f"{name}.")
            continue
        yield name, own


def parametrized(module: nn.Module) -> dict[str, Any]:
    """By name, the lists of parametrizations of a module's weights that are stored in a few bits."""
    lists: Any = getattr(module, "parametrizations", {})
    # A weight norm has several originals, and none by this name.
    return {name: chain for name, chain in lists.items() if hasattr(getattr(chain, "original", None), "quant_state")}


def backbone_name(model: nn.Module) -> str:
    """What the base is called inside one of transformers' classes with a head."""
    from transformers import PreTrainedModel

    prefix = str(getattr(model, "base_model_prefix", ""))
    if hasattr(model, prefix):
        return prefix
    # Whisper's class for audio is around the encoder alone, and says that its base is the whole model.
    return next((name for name, child in model.named_children() if isinstance(child, PreTrainedModel)), prefix)


def transformers_models(model: nn.Module) -> list[Any]:
    """transformers' own models inside a wrapped one, the outermost first."""
    from transformers import PreTrainedModel

    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]
