"""The available optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

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
    """An optimizer as a recipe names it, outside of a trainer."""
    import torch

    if name == "adamw":
        return torch.optim.AdamW(trained, lr=learning_rate, fused=True)
    import bitsandbytes.optim as optim

    # Paged memory is a feature of CUDA.
    paged = name.startswith("paged") and torch.cuda.is_available()
    made: torch.optim.Optimizer = (optim.PagedAdamW8bit if paged else optim.AdamW8bit)(trained, lr=learning_rate)
    return made
