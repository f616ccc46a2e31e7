"""The weights of all resident adapters: sites with their stacks, slots, and the bytes that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pefttools.deltas import AdapterDeltas, Prefix, Prompt, SiteDelta
from pefttools.pool.routing import Routing
from pefttools.pool.sites import Site
from pefttools.pool.slots import Slots
from pefttools.pool.stacks import Family, Stack, families_of


@dataclass(frozen=True)
class Placed:
    """Where an adapter's weights are.

    Attributes:
        key: unlike any other adapter's.
        slots: its slot in each of its families.
        beside: names of the sites that hold something of it outside of the stacks.
        prefix: its extra keys and values.
        prompt: its extra embeddings.
        own_bytes: size of what is not in the stacks.
    """

    key: int
    slots: dict[Family, int]
    beside: tuple[str, ...]
    prefix: Prefix | None
    prompt: Prompt | None
    own_bytes: int = 0


@dataclass
class Shelf:
    """Adapters' weights at the sites of one model.

    Args:
        model: the pool's model.
        limit: number of adapters that can be resident.
    """

    model: nn.Module
    limit: int
    routing: Routing = field(default_factory=Routing)
    sites: dict[str, Site] = field(default_factory=dict)
    slots: dict[Family, Slots] = field(default_factory=dict)
    _last: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device  # asked of the module at every call it would cost more
        # Hooks stand everywhere from the beginning, so that a compiled model need not change when an adapter comes.
        for name, module in self.model.named_modules():
            if module._parameters and name:
                self.sites[name] = Site(name, module, self.routing)

    def bytes(self) -> int:
        """Bytes of all stacks, free slots included."""
        return sum(stack.bytes for stack in self._stacks())

    def tensors(self) -> list[torch.Tensor]:
        """The tensors of all stacks, in a fixed order."""
        return [tensor for stack in self._stacks() for tensor in stack.tensors.values()]

    def bind(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put what `tensors` gave in its place."""
        start = 0
        for stack in self._stacks():
            names = list(stack.tensors)
            stack.tensors = dict(zip(names, tensors[start : start + len(names)], strict=True))
            start += len(names)

    def _stacks(self) -> list[Stack]:
        return [stack for site in self.sites.values() for stack in site.stacks.values()]

    def needs(self, deltas: AdapterDeltas) -> int:
        """Bytes that placing an adapter would add now."""
        total = 0
        new: dict[Family, int] = {}
        for family in _families(deltas):
            slots = self.slots.get(family)
            if slots is None:
                new[family] = Slots(self.limit).capacity
            elif slots.full:
                more = slots.next_capacity() - slots.capacity
                total += more * sum(s.slot_bytes for site in self.sites.values() for s in site.of(family))
        for name, delta in deltas.sites.items():
            site = self.sites.get(name)
            for family in families_of(delta):
                if site is None or not any(True for _ in site.of(family)):
                    slots = self.slots.get(family)
                    capacity = new[family] if slots is None else slots.capacity
                    total += capacity * _bytes(delta, family)
        return total + _own_bytes(deltas)

    def place(self, deltas: AdapterDeltas) -> Placed:
        """Copy an adapter's weights into slots."""
        self._last += 1
        key = self._last
        slots: dict[Family, int] = {}
        for family in _families(deltas):
            own = self.slots.setdefault(family, Slots(self.limit))
            if own.full:
                capacity = own.grow()
                for site in self.sites.values():
                    for stack in site.of(family):
                        stack.grow(capacity)
            slots[family] = own.take()
        capacities = {family: own.capacity for family, own in self.slots.items()}
        for name, delta in deltas.sites.items():
            site = self._site(name)
            reads = None if delta.bottleneck is None else delta.bottleneck.reads
            if reads is not None:
                self._site(reads).is_read = True
            site.add_stacks(delta, capacities, reads)
        for name, site in self.sites.items():
            found = deltas.sites.get(name)
            reads = None if found is None or found.bottleneck is None else found.bottleneck.reads
            site.write(slots, key, found, reads)
        beside = tuple(name for name, delta in deltas.sites.items() if _is_beside(delta))
        prefix = None if deltas.prefix is None else Prefix(deltas.prefix.states.to(self.device))
        prompt = None if deltas.prompt is None else Prompt(deltas.prompt.embeddings.to(self.device))
        return Placed(key, slots, beside, prefix, prompt, _own_bytes(deltas))

    def remove(self, placed: Placed) -> None:
        """Free an adapter's slots."""
        for family, slot in placed.slots.items():
            self.slots[family].give(slot)
        for name in placed.beside:
            self.sites[name].forget(placed.key)

    def compact(self) -> bool:
        """Drop the stacks of families that nobody uses; False where there are none."""
        empty = [family for family, slots in self.slots.items() if slots.empty]
        for family in empty:
            del self.slots[family]
            for site in self.sites.values():
                site.drop(family)
        return bool(empty)

    def route(self, rows: Sequence[Placed | None], every_family: bool = False) -> None:
        """Say which row of the coming call goes with which adapter.

        Args:
            rows: per row, its adapter; None: the base.
            every_family: also those that no row needs, so that a compiled model sees the same ones in every call.
        """
        self.routing.clear()
        for family in list(self.slots):
            numbers = [0 if row is None else row.slots.get(family, 0) for row in rows]
            if every_family or any(numbers):
                self.routing.slots[family] = torch.tensor(numbers, device=self.device)
        for index, row in enumerate(rows):
            if row is not None and row.beside:
                self.routing.rows.setdefault(row.key, []).append(index)

    def _site(self, name: str) -> Site:
        if name not in self.sites:
            self.sites[name] = Site(name, self.model.get_submodule(name), self.routing)
        return self.sites[name]


def _families(deltas: AdapterDeltas) -> list[Family]:
    return list(dict.fromkeys(family for delta in deltas.sites.values() for family in families_of(delta)))


def _is_beside(delta: SiteDelta) -> bool:
    return delta.dense is not None or delta.replace is not None


def _own_bytes(deltas: AdapterDeltas) -> int:
    tensors = []
    for delta in deltas.sites.values():
        tensors += [] if delta.dense is None else [delta.dense]
        tensors += list((delta.replace or {}).values())
    tensors += [] if deltas.prefix is None else [deltas.prefix.states]
    tensors += [] if deltas.prompt is None else [deltas.prompt.embeddings]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes(delta: SiteDelta, family: Family) -> int:
    """Bytes of one slot of the stack that a delta would make, in float32."""
    if family.kind == "low_rank":
        assert delta.low_rank is not None
        return 4 * family.size * (delta.low_rank.a.shape[1] + delta.low_rank.b.shape[0])
    if family.kind == "bottleneck":
        assert delta.bottleneck is not None
        inputs, outputs = delta.bottleneck.down.shape[1], delta.bottleneck.up.shape[0]
        return 4 * (family.size * (inputs + outputs + 1) + outputs)
    return 4 * int(getattr(delta, family.kind).numel())
