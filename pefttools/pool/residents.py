"""Which adapters are resident: least recently used ones leave, those that a running call uses stay."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pefttools.errors import CapacityError
from pefttools.pool.prepare import Prepared
from pefttools.pool.shelf import Placed, Shelf


@dataclass(eq=False)
class Resident:
    """An adapter whose weights are in the pool.

    Attributes:
        name: what callers call it.
        prepared: what it was made of; its deltas have been copied and are dropped.
        placed: where its weights are.
        pins: number of running calls that use it.
    """

    name: str
    prepared: Prepared
    placed: Placed
    pins: int = 0

    def bytes(self) -> int:
        """What it takes outside of the stacks."""
        return self.placed.own_bytes + self.prepared.head.bytes()


class Residents:
    """The resident adapters by name, least recently used first.

    Args:
        shelf: where weights are placed.
        max_resident: most adapters at a time.
        max_bytes: most bytes of adapter weights; None: no limit.
    """

    def __init__(self, shelf: Shelf, max_resident: int, max_bytes: int | None) -> None:
        self.shelf = shelf
        self.max_resident = max_resident
        self.max_bytes = max_bytes
        self._by_name: OrderedDict[str, Resident] = OrderedDict()
        #: replaced or unloaded while a call was using them
        self._leaving: list[Resident] = []
        self._changed = threading.Condition()

    def names(self) -> list[str]:
        """Least recently used first."""
        with self._changed:
            return list(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Resident | None:
        """A resident adapter, if it is one; it may leave at any time."""
        return self._by_name.get(name)

    def bytes(self) -> int:
        """Bytes of all adapter weights, free slots included."""
        with self._changed:
            return self._bytes()

    def put(self, name: str, prepared: Prepared, *, wait: bool = True) -> None:
        """Place an adapter; one of the same name is replaced as soon as no running call uses it.

        Args:
            name: what callers call it.
            prepared: the adapter.
            wait: wait for running calls to end where only their adapters could leave.

        Raises:
            CapacityError: it can't fit.
        """
        with self._changed:
            old = self._by_name.pop(name, None)
            if old is not None:
                self._leaving.append(old)
            self._sweep()
            self._make_room(name, prepared, wait)
            self._by_name[name] = Resident(name, prepared, self.shelf.place(prepared.deltas))

    def drop(self, name: str) -> bool:
        """Take an adapter out; False where it was not resident."""
        with self._changed:
            old = self._by_name.pop(name, None)
            if old is None:
                return False
            self._leaving.append(old)
            self._sweep()
            return True

    @contextmanager
    def hold(self, names: Sequence[str], fetch: Callable[[str], Prepared]) -> Iterator[dict[str, Resident]]:
        """The named adapters, which stay resident within; one that is not is fetched first.

        Raises:
            CapacityError: more than the pool may hold.
        """
        unique = list(dict.fromkeys(names))
        if len(unique) > self.max_resident:
            raise CapacityError(
                f"{len(unique)} different adapters in one call, but the pool holds {self.max_resident}",
                hint="Raise max_resident, or split the batch.",
            )
        held: dict[str, Resident] = {}
        try:
            for name in unique:
                while name not in held:
                    with self._changed:
                        resident = self._by_name.get(name)
                        if resident is not None:
                            resident.pins += 1
                            self._by_name.move_to_end(name)
                            held[name] = resident
                    if name not in held:
                        self.put(name, fetch(name), wait=False)
            yield held
        finally:
            with self._changed:
                for resident in held.values():
                    resident.pins -= 1
                self._sweep()
                self._changed.notify_all()

    def _make_room(self, name: str, prepared: Prepared, wait: bool) -> None:
        while not self._fits(prepared):
            victim = next((one for one in self._by_name.values() if one.pins == 0), None)
            if victim is not None:
                del self._by_name[victim.name]
                self.shelf.remove(victim.placed)
            elif self.shelf.compact():
                continue
            elif wait and (self._by_name or self._leaving):
                self._changed.wait()
                self._sweep()
            else:
                budget = "" if self.max_bytes is None else f" and {self.max_bytes:,} bytes"
                raise CapacityError(
                    f"the adapter {name!r} does not fit: the pool holds {self.max_resident} adapters{budget}",
                    hint="Raise max_resident or max_bytes, or use fewer adapters in one call.",
                )

    def _fits(self, prepared: Prepared) -> bool:
        if len(self._by_name) + len(self._leaving) >= self.max_resident:
            return False
        if self.max_bytes is None:
            return True
        return self._bytes() + self.shelf.needs(prepared.deltas) + prepared.head.bytes() <= self.max_bytes

    def _bytes(self) -> int:
        residents = [*self._by_name.values(), *self._leaving]
        return self.shelf.bytes() + sum(resident.bytes() for resident in residents)

    def _sweep(self) -> None:
        """Free what left and is no longer used."""
        for resident in [one for one in self._leaving if one.pins == 0]:
            self._leaving.remove(resident)
            self.shelf.remove(resident.placed)
