"""The weights of all resident adapters: stacks at sites and of virtual tokens, their slots, their bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pefttools.compute.moving import moved
from pefttools.deltas.adapter import AdapterDeltas, SiteDelta
from pefttools.deltas.kind import Family
from pefttools.errors import ArtifactError, is_out_of_memory
from pefttools.pool.routing import Routing
from pefttools.pool.shared import SharedTensors
from pefttools.pool.sites import Site
from pefttools.pool.slots import Slots
from pefttools.pool.stack import Stack, TensorOptions
from pefttools.pool.virtual_stack import VirtualStack, slot_shape


@dataclass(frozen=True)
class Allocation:
    """Where an adapter's weights are.

    Attributes:
        key: unique among all adapters.
        slots: its slot in each of its families.
        unstacked: names of the sites that hold a part of it outside of the stacks.
        lengths: number of its virtual tokens, by kind (prefix, prompt).
        own_bytes: size of what is not in the stacks.
    """

    key: int
    slots: dict[Family, int]
    unstacked: tuple[str, ...]
    lengths: dict[str, int]
    own_bytes: int


@dataclass
class WeightSlots:
    """Adapters' weights for one model.

    Args:
        model: the pool's model.
        limit: maximum number of slots of a family, including the base's.
    """

    model: nn.Module
    limit: int
    routing: Routing = field(default_factory=Routing)
    sites: dict[str, Site] = field(default_factory=dict)
    virtual: dict[Family, VirtualStack] = field(default_factory=dict)
    slots: dict[Family, Slots] = field(default_factory=dict)
    _shared: SharedTensors = field(default_factory=SharedTensors)
    _last: int = 0

    def __post_init__(self) -> None:
        # That of the hidden states: more bits would be lost when added to them.
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        self.options = TensorOptions(dtype, next(self.model.parameters()).device)
        # Hooks are everywhere from the beginning, so that a compiled model need not change when an adapter is added.
        for name, module in self.model.named_modules():
            # Adapters act on layers, and on whole blocks, which are numbered.
            if name and (module._parameters or name.rpartition(".")[2].isdigit()):
                self.sites[name] = Site(name, module, self.routing)

    def bytes(self) -> int:
        """Bytes of all stacks, free slots included."""
        stacks = sum(stack.bytes for stack in self._stacks()) + sum(stack.bytes for stack in self.virtual.values())
        return stacks + self._shared.bytes()

    def tensors(self) -> list[torch.Tensor]:
        """The tensors of all stacks at sites, in a fixed order."""
        return [tensor for stack in self._stacks() for tensor in stack.tensors.values()]

    def bind(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put tensors in the order of `tensors` back in place."""
        start = 0
        for stack in self._stacks():
            names = list(stack.tensors)
            stack.tensors = dict(zip(names, tensors[start : start + len(names)], strict=True))
            start += len(names)

    def needs(self, deltas: AdapterDeltas) -> int:
        """Bytes that allocating an adapter would add now."""
        total = own_bytes(deltas) + self._shared.missing(deltas)
        for family in _families(deltas):
            slots = self.slots.get(family)
            capacity = Slots(self.limit).capacity if slots is None else slots.capacity
            if slots is not None and slots.full:
                total += (slots.next_capacity() - capacity) * sum(stack.slot_bytes for stack in self._of(family))
                capacity = slots.next_capacity()
            if family in self.virtual:
                continue
            total += capacity * self.options.dtype.itemsize * self._missing_numbers(family, deltas)
        return total

    def _missing_numbers(self, family: Family, deltas: AdapterDeltas) -> int:
        """Number of values in a slot of those stacks of a family that an adapter needs and that do not exist yet."""
        for tokens in deltas.virtual:
            if tokens.family() == family:
                return math.prod(slot_shape(family, tokens))
        shapes = [
            shape
            for name, delta in deltas.sites.items()
            if not (name in self.sites and any(self.sites[name].of(family)))
            for part in delta
            if part.stacked and part.family() == family
            for shape in part.slot(family.size).values()
        ]
        return sum(map(math.prod, shapes))

    def allocate(self, deltas: AdapterDeltas) -> Allocation:
        """Copy an adapter's weights into slots.

        Raises:
            ArtifactError: their shapes do not match the model's modules.
        """
        self._last += 1
        deltas = self._shared.put_in(deltas)
        slots: dict[Family, int] = {}
        unstacked = tuple(name for name, delta in deltas.sites.items() if any(not part.stacked for part in delta))
        lengths = {tokens.name: tokens.length for tokens in deltas.virtual}
        allocation = Allocation(self._last, slots, unstacked, lengths, own_bytes(deltas))
        try:
            for family in _families(deltas):
                slots[family] = self._take(family)
            self._write(deltas, allocation)
        except BaseException as error:
            self.remove(allocation)
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise ArtifactError(f"the adapter's weights do not fit the base: {error}") from error
            raise
        return allocation

    def remove(self, allocation: Allocation) -> None:
        """Free an adapter's slots."""
        for family, slot in allocation.slots.items():
            self.slots[family].give(slot)
        for name in allocation.unstacked:
            if name in self.sites:
                self.sites[name].forget(allocation.key)

    def compact(self) -> bool:
        """Drop the stacks of families that no adapter uses; False if there are none."""
        empty = [family for family, slots in self.slots.items() if slots.empty]
        for family in empty:
            del self.slots[family]
            self.virtual.pop(family, None)
            for site in self.sites.values():
                site.drop(family)
        if empty:
            self.routing.gathered.release()
        return bool(empty)

    def route(self, rows: Sequence[Allocation | None], every_family: bool = False) -> None:
        """Set which row of the next call uses which adapter.

        Args:
            rows: per row, its adapter; None for the base.
            every_family: include families that no row needs, so that a compiled model sees the same ones in every call.
        """
        self.routing.clear()
        self.routing.total = len(rows)
        numbers = {
            family: [0 if row is None else row.slots.get(family, 0) for row in rows] for family in list(self.slots)
        }
        numbers = {family: own for family, own in numbers.items() if every_family or any(own)}
        if numbers:
            # One copy to the device for all of them.
            table = moved(torch.tensor(list(numbers.values())), self.options.device)
            for family, slots in zip(numbers, table, strict=True):
                (self.routing.virtual if family in self.virtual else self.routing.slots)[family] = slots
        for index, row in enumerate(rows):
            if row is not None and row.unstacked:
                self.routing.rows.setdefault(row.key, []).append(index)

    def _write(self, deltas: AdapterDeltas, allocation: Allocation) -> None:
        capacities = {family: own.capacity for family, own in self.slots.items()}
        for name, delta in deltas.sites.items():
            for part in delta:
                if part.reads is not None:
                    self._site(part.reads).is_read = True
            self._site(name).add_stacks(delta, capacities, self.options)
        for name, site in self.sites.items():
            site.write(allocation.slots, allocation.key, deltas.sites.get(name, SiteDelta()))
        for tokens in deltas.virtual:
            family = tokens.family()
            if family not in self.virtual:
                self.virtual[family] = VirtualStack(family, tokens, capacities[family], self.options)
            self.virtual[family].write(allocation.slots[family], tokens)

    def _take(self, family: Family) -> int:
        """A free slot of a family, which grows if it has none."""
        slots = self.slots.setdefault(family, Slots(self.limit))
        if slots.full:
            for stack in self._of(family):
                stack.grow(slots.next_capacity())
            slots.grow()  # last, so that there is never a slot without storage
        return slots.take()

    def _of(self, family: Family) -> Iterator[Stack | VirtualStack]:
        if family in self.virtual:
            yield self.virtual[family]
        for site in self.sites.values():
            yield from site.of(family)

    def _stacks(self) -> list[Stack]:
        return [stack for site in self.sites.values() for stack in site.stacks.values()]

    def _site(self, name: str) -> Site:
        if name not in self.sites:
            self.sites[name] = Site(name, self.model.get_submodule(name), self.routing)
        return self.sites[name]


def own_bytes(deltas: AdapterDeltas) -> int:
    """Bytes of what is not stacked, e.g. dense changes and replaced parameters."""
    return sum(part.bytes for delta in deltas.sites.values() for part in delta if not part.stacked)


def _families(deltas: AdapterDeltas) -> list[Family]:
    at_sites = (part.family() for delta in deltas.sites.values() for part in delta if part.stacked)
    return list(dict.fromkeys((*at_sites, *(tokens.family() for tokens in deltas.virtual))))
