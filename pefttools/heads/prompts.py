"""The prompts that pictures are compared with: a head without parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class Prompts(nn.Module):
    """Tokens of one prompt per label. They are made anew from the task's options, and not saved.

    Args:
        batch: tensors ``[labels, tokens]``, as a base's text model takes them.
    """

    def __init__(self, batch: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = list(batch)
        for name, tensor in batch.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self) -> dict[str, torch.Tensor]:
        """Arguments of the base's forward."""
        return {name: self.get_buffer(name) for name in self._names}
