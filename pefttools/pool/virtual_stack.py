"""Virtual tokens of many adapters: for each padded length, a slot per adapter."""

from __future__ import annotations

import torch
from torch import nn

from pefttools.deltas.kind import Family
from pefttools.deltas.virtual import VirtualTokens
from pefttools.pool.stack import TensorOptions


class VirtualStack:
    """Virtual tokens of one family, ``[slots, ..., length, size]``, padded with zeros on the left.

    Args:
        family: which virtual tokens it holds.
        example: some of them, for their shape.
        capacity: number of slots.
        options: number format and device.
    """

    def __init__(self, family: Family, example: VirtualTokens, capacity: int, options: TensorOptions) -> None:
        shape = slot_shape(family, example)
        self.tensor = torch.zeros((capacity, *shape), dtype=options.dtype, device=options.device)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.tensor[0].numel() * self.tensor.element_size()

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.tensor.numel() * self.tensor.element_size()

    def grow(self, capacity: int) -> None:
        """Make room for more adapters; existing ones keep their slots."""
        new = self.tensor.new_zeros((capacity, *self.tensor.shape[1:]))
        new[: len(self.tensor)] = self.tensor
        self.tensor = new

    def write(self, slot: int, tokens: VirtualTokens) -> None:
        """Copy an adapter's states into a slot."""
        self.tensor[slot] = 0
        self.tensor[slot, ..., self.tensor.shape[-2] - tokens.length :, :] = tokens.states

    def rows(self, slots: torch.Tensor, longest: int) -> torch.Tensor:
        """States of each row, ``[rows, ..., longest, size]``."""
        found = self.tensor.index_select(0, slots)
        missing = longest - found.shape[-2]
        return nn.functional.pad(found, (0, 0, missing, 0)) if missing > 0 else found[..., -missing:, :]


def slot_shape(family: Family, tokens: VirtualTokens) -> tuple[int, ...]:
    """Shape of a slot that virtual tokens of this family share."""
    shape = tokens.states.shape
    return (*shape[:-2], family.size, shape[-1])
