"""Stacked weights of many adapters: one family of deltas at one site, with a slot per adapter.

Slot 0 is the base: it does nothing. A batch row's slot determines which weights it gets. Tensors are plain attributes,
not module buffers: torch.compile then treats their first dimension as one that may change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pefttools.deltas.kind import At, DeltaKind, Family
from pefttools.pool.gathering import Rows


@dataclass(frozen=True)
class TensorOptions:
    """Number format and device of a stack."""

    dtype: torch.dtype
    device: torch.device


class Stack:
    """Weights of one family at one site.

    Args:
        family: which deltas it holds.
        example: one of them, for its shapes.
        capacity: number of slots.
        options: number format and device.
    """

    def __init__(self, family: Family, example: DeltaKind, capacity: int, options: TensorOptions) -> None:
        self.family = family
        self.kind = type(example)
        self.tensors = {
            name: torch.full((capacity, *shape), self.kind.neutral, dtype=options.dtype, device=options.device)
            for name, shape in example.slot(family.size).items()
        }

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return sum(t[0].numel() * t.element_size() for t in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.slot_bytes * self.capacity

    @property
    def capacity(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def grow(self, capacity: int) -> None:
        """Make room for more adapters; existing ones keep their slots."""
        for name, old in self.tensors.items():
            new = old.new_full((capacity, *old.shape[1:]), self.kind.neutral)
            new[: len(old)] = old
            # Replaced in one step: a running call reads the old or the new, and its slots are in both.
            self.tensors[name] = new

    def clear(self, slot: int) -> None:
        """Make a slot do nothing."""
        for tensor in self.tensors.values():
            tensor[slot] = self.kind.neutral

    def write(self, slot: int, delta: DeltaKind) -> None:
        """Copy an adapter's weights into a slot."""
        self.clear(slot)
        for name, value in delta.values().items():
            target = self.tensors[name][slot]
            target[tuple(slice(0, size) for size in value.shape)] = value

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        """What passes through the site, with each row's own delta applied; see `DeltaKind.apply`.

        Args:
            x: what the delta reads, ``[rows, ..., in]``.
            y: what passes, ``[rows, ..., out]``.
            rows: which slot each row has.
            module: the site's module.
        """
        weights = {name: rows.of(self, name) for name in self.tensors}
        return self.kind.apply(x, y, weights, At(module, rows.slots, self.family.form, self.family.size))
