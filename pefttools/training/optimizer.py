"""Which parameters are trained at which rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.sites import block_of
from pefttools.training.rates import Rates
from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    import torch

#: biases and norms, by the patterns that transformers' Trainer has
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)


def parameter_groups(
    model: TunedModel, rates: Rates, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trained parameters, with a learning rate of its own for the task head, and for each block if that decays.

    The optimizer's own weight decay pulls towards zero, so it is only used where zero is the right value; for others
    see `decay_to_their_values`.
    """
    groups: dict[tuple[float, float], list[Any]] = {}
    depths = depths_of([name for name, p in model.named_parameters() if p.requires_grad and not _in_head(model, name)])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = (
                rates.head
                if _in_head(model, name)
                else rates.method * _factor(model, name) * layer_decay ** depths.get(name, 0)
            )
            decay = weight_decay if decay_target(model, name, parameter) == 0 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def depths_of(names: Sequence[str]) -> dict[str, int]:
    """How many blocks are above that of each parameter, by name; what comes before the blocks is one further below.

    Blocks of an encoder and of a decoder are counted apart. What is in no block and comes after the last one is at
    depth 0.
    """
    places = {name: place for name in names if (place := block_of(name)) is not None}
    top: dict[str, int] = {}
    for stack, block in places.values():
        top[stack] = max(top.get(stack, 0), block)
    depths = {name: top[stack] - block for name, (stack, block) in places.items()}
    below = max(top.values(), default=-1) + 1
    return depths | {name: below for name in names if name not in places and "embed" in name}


def _factor(model: TunedModel, name: str) -> float:
    return model.spec.method.rate_factor(model.transformer, model.spec.config, name.removeprefix("transformer."))


def decay_target(model: TunedModel, name: str, parameter: torch.Tensor) -> float | None:
    """Value that weight decay pulls a trained parameter towards; None if it does not decay, like biases and norms."""
    if parameter.ndim < 2 or _NOT_DECAYED.search(name):
        return None
    if _in_head(model, name):
        return 0.0
    return model.spec.method.decays_to(model.transformer, model.spec.config, name.removeprefix("transformer."))


def decay_to_their_values(optimizer: torch.optim.Optimizer, model: TunedModel, weight_decay: float) -> None:
    """Let parameters whose value without effect is not zero decay to that value, before every step.

    Decoupled, as AdamW's: ``parameter -= rate * weight_decay * (parameter - value)``.

    Args:
        optimizer: each of its steps is preceded by the decay, at the current learning rate of its groups.
        model: the model that it trains.
        weight_decay: as in AdamW.
    """
    values = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = decay_target(model, name, parameter)
            if value:  # for zero, the optimizer does it itself
                values[parameter] = value
    if not values or not weight_decay:
        return

    def decay(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # Like AdamW: what has no gradient in this step stays as it is.
                if parameter in values and parameter.grad is not None:
                    parameter.data.add_(values[parameter] - parameter.data, alpha=group["lr"] * weight_decay)

    optimizer.register_step_pre_hook(decay)


def _in_head(model: TunedModel, name: str) -> bool:
    # PEFT keeps its trained copy of a module below the module's own name.
    return name.startswith("head.") or any(f".{module}." in name for module in model.spec.target.head_modules)
