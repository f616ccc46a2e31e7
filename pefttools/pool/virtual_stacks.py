"""Virtual tokens of many adapters: per padded length, a slot per adapter. And what a slot of any family takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pefttools.deltas import AdapterDeltas, SiteDelta
from pefttools.pool.stacks import Family, Place, padded


def virtual_families(deltas: AdapterDeltas) -> dict[Family, torch.Tensor]:
    """The families of an adapter's virtual tokens, with their states ``[..., length, size]``."""
    found = {}
    if deltas.prefix is not None:
        found[Family("prefix", padded(deltas.prefix.length))] = deltas.prefix.states
    if deltas.prompt is not None:
        found[Family("prompt", padded(deltas.prompt.length))] = deltas.prompt.embeddings
    return found


class VirtualStack:
    """Prefixes or prompts of one padded length, ``[slots, ..., length, size]``, padded with zeros on the left.

    Args:
        length: padded length.
        example: states ``[..., tokens, size]`` of an adapter.
        capacity: number of slots.
        place: number format and device.
    """

    def __init__(self, length: int, example: torch.Tensor, capacity: int, place: Place) -> None:
        shape = (*example.shape[:-2], length, example.shape[-1])
        self.tensor = torch.zeros((capacity, *shape), dtype=place.dtype, device=place.device)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self.tensor[0].numel() * self.tensor.element_size()

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.tensor.numel() * self.tensor.element_size()

    def grow(self, capacity: int) -> None:
        """Make room for more adapters; what stands keeps its slots."""
        new = self.tensor.new_zeros((capacity, *self.tensor.shape[1:]))
        new[: len(self.tensor)] = self.tensor
        self.tensor = new

    def write(self, slot: int, states: torch.Tensor) -> None:
        """Copy an adapter's states into a slot."""
        self.tensor[slot] = 0
        self.tensor[slot, ..., self.tensor.shape[-2] - states.shape[-2] :, :] = states

    def rows(self, slots: torch.Tensor, longest: int) -> torch.Tensor:
        """States of each row, ``[rows, ..., longest, size]``."""
        found = self.tensor.index_select(0, slots)
        missing = longest - found.shape[-2]
        return nn.functional.pad(found, (0, 0, missing, 0)) if missing > 0 else found[..., -missing:, :]


def slot_bytes(family: Family, lacking: Sequence[SiteDelta], deltas: AdapterDeltas, itemsize: int) -> int:
    """Bytes of one slot of the stacks that a family would get.

    Args:
        family: the family.
        lacking: deltas at sites that have no stack of it yet.
        deltas: of the whole adapter.
        itemsize: bytes of a number.
    """
    states = virtual_families(deltas).get(family)
    if states is not None:
        return itemsize * states.numel() // states.shape[-2] * family.size
    total = 0
    for delta in lacking:
        if delta.low_rank is not None and family.kind == "low_rank":
            total += family.size * (delta.low_rank.a.shape[1] + delta.low_rank.b.shape[0])
        elif delta.bottleneck is not None and family.kind in ("bottleneck", "norm_bottleneck"):
            inputs, outputs = delta.bottleneck.down.shape[1], delta.bottleneck.up.shape[0]
            total += family.size * (inputs + outputs + 1) + outputs
        else:
            total += int(getattr(delta, family.kind).numel())
    return itemsize * total
