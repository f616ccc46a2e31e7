"""The weights of all resident adapters: stacks at sites and of virtual tokens, their slots, their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pefttools.compute.moving import moved
from pefttools.deltas import AdapterDeltas, SiteDelta
from pefttools.errors import ArtifactError, is_out_of_memory
from pefttools.pool.routing import Routing
from pefttools.pool.sites import Site
from pefttools.pool.slots import Slots
from pefttools.pool.stacks import Family, Place, Stack, families_of
from pefttools.pool.virtual_stacks import VirtualStack, slot_bytes, virtual_families


@dataclass(frozen=True)
class Placed:
    """Where an adapter's weights are.

    Attributes:
        key: unlike any other adapter's.
        slots: its slot in each of its families.
        beside: names of the sites that hold something of it outside of the stacks.
        lengths: number of its virtual tokens, by kind (prefix, prompt).
        own_bytes: size of what is not in the stacks.
    """

    key: int
    slots: dict[Family, int]
    beside: tuple[str, ...]
    lengths: dict[str, int]
    own_bytes: int


@dataclass
class Shelf:
    """Adapters' weights for one model.

    Args:
        model: the pool's model.
        limit: number of slots of a family, the base's among them.
    """

    model: nn.Module
    limit: int
    routing: Routing = field(default_factory=Routing)
    sites: dict[str, Site] = field(default_factory=dict)
    virtual: dict[Family, VirtualStack] = field(default_factory=dict)
    slots: dict[Family, Slots] = field(default_factory=dict)
    _last: int = 0

    def __post_init__(self) -> None:
        # The hidden states' own: what more bits could hold is lost where it is added to them.
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        self.place_of_stacks = Place(dtype, next(self.model.parameters()).device)
        # Hooks stand everywhere from the beginning, so that a compiled model need not change when an adapter comes.
        for name, module in self.model.named_modules():
            # Adapters stand at layers, and at whole blocks, which are numbered.
            if name and (module._parameters or name.rpartition(".")[2].isdigit()):
                self.sites[name] = Site(name, module, self.routing)

    def bytes(self) -> int:
        """Bytes of all stacks, free slots included."""
        return sum(stack.bytes for stack in self._stacks()) + sum(stack.bytes for stack in self.virtual.values())

    def tensors(self) -> list[torch.Tensor]:
        """The tensors of all stacks at sites, in a fixed order."""
        return [tensor for stack in self._stacks() for tensor in stack.tensors.values()]

    def bind(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put what `tensors` gave in its place."""
        start = 0
        for stack in self._stacks():
            names = list(stack.tensors)
            stack.tensors = dict(zip(names, tensors[start : start + len(names)], strict=True))
            start += len(names)

    def needs(self, deltas: AdapterDeltas) -> int:
        """Bytes that placing an adapter would add now."""
        total = own_bytes(deltas)
        for family in _families(deltas):
            slots = self.slots.get(family)
            capacity = Slots(self.limit).capacity if slots is None else slots.capacity
            if slots is not None and slots.full:
                total += (slots.next_capacity() - capacity) * sum(stack.slot_bytes for stack in self._of(family))
                capacity = slots.next_capacity()
            if family in self.virtual:
                continue
            lacking = [
                delta
                for name, delta in deltas.sites.items()
                if family in families_of(delta) and not (name in self.sites and any(self.sites[name].of(family)))
            ]
            total += capacity * slot_bytes(family, lacking, deltas, self.place_of_stacks.dtype.itemsize)
        return total

    def place(self, deltas: AdapterDeltas) -> Placed:
        """Copy an adapter's weights into slots.

        Raises:
            ArtifactError: they have other shapes than the model's modules.
        """
        self._last += 1
        slots: dict[Family, int] = {}
        beside = tuple(name for name, delta in deltas.sites.items() if _is_beside(delta))
        parts = {"prefix": deltas.prefix, "prompt": deltas.prompt}
        lengths = {kind: part.length for kind, part in parts.items() if part is not None}
        placed = Placed(self._last, slots, beside, lengths, own_bytes(deltas))
        try:
            for family in _families(deltas):
                slots[family] = self._take(family)
            self._write(deltas, placed)
        except BaseException as error:
            self.remove(placed)
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise ArtifactError(f"the adapter's weights do not fit the base: {error}") from error
            raise
        return placed

    def remove(self, placed: Placed) -> None:
        """Free an adapter's slots."""
        for family, slot in placed.slots.items():
            self.slots[family].give(slot)
        for name in placed.beside:
            if name in self.sites:
                self.sites[name].forget(placed.key)

    def compact(self) -> bool:
        """Drop the stacks of families that nobody uses; False where there are none."""
        empty = [family for family, slots in self.slots.items() if slots.empty]
        for family in empty:
            del self.slots[family]
            self.virtual.pop(family, None)
            for site in self.sites.values():
                site.drop(family)
        if empty:
            self.routing.gathered.release()
        return bool(empty)

    def route(self, rows: Sequence[Placed | None], every_family: bool = False) -> None:
        """Say which row of the coming call goes with which adapter.

        Args:
            rows: per row, its adapter; None: the base.
            every_family: also those that no row needs, so that a compiled model sees the same ones in every call.
        """
        self.routing.clear()
        self.routing.total = len(rows)
        numbers = {
            family: [0 if row is None else row.slots.get(family, 0) for row in rows] for family in list(self.slots)
        }
        numbers = {family: own for family, own in numbers.items() if every_family or any(own)}
        if numbers:
            # One copy to the device for all of them.
            table = moved(torch.tensor(list(numbers.values())), self.place_of_stacks.device)
            for family, slots in zip(numbers, table, strict=True):
                (self.routing.virtual if family in self.virtual else self.routing.slots)[family] = slots
        for index, row in enumerate(rows):
            if row is not None and row.beside:
                self.routing.rows.setdefault(row.key, []).append(index)

    def _write(self, deltas: AdapterDeltas, placed: Placed) -> None:
        capacities = {family: own.capacity for family, own in self.slots.items()}
        for name, delta in deltas.sites.items():
            reads = _reads(delta)
            if reads is not None:
                self._site(reads).is_read = True
            self._site(name).add_stacks(delta, capacities, reads, self.place_of_stacks)
        for name, site in self.sites.items():
            found = deltas.sites.get(name)
            site.write(placed.slots, placed.key, found, None if found is None else _reads(found))
        for family, states in virtual_families(deltas).items():
            if family not in self.virtual:
                self.virtual[family] = VirtualStack(family.size, states, capacities[family], self.place_of_stacks)
            self.virtual[family].write(placed.slots[family], states)

    def _take(self, family: Family) -> int:
        """A free slot of a family, which grows where it has none."""
        slots = self.slots.setdefault(family, Slots(self.limit))
        if slots.full:
            for stack in self._of(family):
                stack.grow(slots.next_capacity())
            slots.grow()  # last: there is never a slot without a place
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
    """Bytes of what is not stacked: dense changes and replaced parameters."""
    tensors = []
    for delta in deltas.sites.values():
        tensors += [] if delta.dense is None else [delta.dense]
        tensors += list((delta.replace or {}).values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _families(deltas: AdapterDeltas) -> list[Family]:
    at_sites = (family for delta in deltas.sites.values() for family in families_of(delta))
    return list(dict.fromkeys((*at_sites, *virtual_families(deltas))))


def _is_beside(delta: SiteDelta) -> bool:
    return delta.dense is not None or delta.replace is not None


def _reads(delta: SiteDelta) -> str | None:
    return None if delta.bottleneck is None else delta.bottleneck.reads
