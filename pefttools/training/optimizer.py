"""Which parameters are trained at which rate, and the optimizers there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    import torch

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]

#: transformers' names of them
TRANSFORMERS_NAMES: dict[str, str] = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


def make_optimizer(name: str, trained: Iterable[torch.Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """An optimizer of a recipe, outside of a trainer."""
    import torch

    if name == "adamw":
        return torch.optim.AdamW(trained, lr=learning_rate, fused=True)
    import bitsandbytes.optim as optim

    # Pages are CUDA's.
    paged = name.startswith("paged") and torch.cuda.is_available()
    made: torch.optim.Optimizer = (optim.PagedAdamW8bit if paged else optim.AdamW8bit)(trained, lr=learning_rate)
    return made


def parameter_groups(
    model: TunedModel, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trained parameters, with a learning rate of its own for the task head; only matrices decay."""
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = head_learning_rate if _in_head(model, name) else learning_rate
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def _in_head(model: TunedModel, name: str) -> bool:
    # PEFT keeps its trained copy of a module below the module's own name.
    return name.startswith("head.") or any(f".{module}." in name for module in model.spec.target.head_modules)
