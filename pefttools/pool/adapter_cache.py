"""Which adapters are resident: least recently used ones are evicted, those that a running call uses stay."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pefttools.errors import ArtifactError, CapacityError, UnknownNameError, is_out_of_memory
from pefttools.pool.introduced import warn_of_passages
from pefttools.pool.prepare import PreparedAdapter
from pefttools.pool.weight_slots import Allocation, WeightSlots
from pefttools.tasks.task import Example, Prediction


@dataclass(frozen=True, eq=False)
class Source:
    """Where an adapter comes from; a new object whenever a name is reassigned.

    Attributes:
        folder: its artifact.
        digest: digest of its manifest.
    """

    folder: Path
    digest: str


@dataclass(eq=False)
class Resident:
    """An adapter whose weights are in the pool.

    Attributes:
        name: what callers call it.
        source: where it came from.
        prepared: what it was made of.
        allocation: where its weights are.
        pins: number of running calls that use it.
    """

    name: str
    source: Source
    prepared: PreparedAdapter
    allocation: Allocation
    pins: int = 0

    def prediction(self, logits: torch.Tensor | None, example: Example) -> Prediction:
        """The prediction from the adapter's logits for a row.

        Args:
            logits: see `pefttools.pool.running.fetched`.
            example: the encoded row.

        Raises:
            ArtifactError: a logit is not a number.
        """
        if logits is None:
            raise ArtifactError(f"the adapter {self.name!r} gives non-finite values (NaN or infinite) for this row")
        task = self.prepared.task
        (found,) = task.finish([task.decode(logits, example, self.prepared.labels)])
        return found

    def bytes(self) -> int:
        """Bytes that it takes outside of the stacks."""
        return self.allocation.own_bytes + self.prepared.head.bytes()


class AdapterCache:
    """The known adapters, and those of them that are resident.

    One lock keeps both consistent: a name always gets the adapter that it was last assigned.

    Args:
        weight_slots: where weights are written.
        prepare: reads an artifact; called without the lock.
        max_resident: maximum number of adapters at a time.
        max_bytes: maximum bytes of adapter weights; None for no limit.
    """

    def __init__(
        self,
        weight_slots: WeightSlots,
        prepare: Callable[[Path], PreparedAdapter],
        max_resident: int,
        max_bytes: int | None,
    ) -> None:
        self.weight_slots = weight_slots
        self.max_resident = max_resident
        self.max_bytes = max_bytes
        #: held while weights are written and removed
        self.lock = threading.RLock()
        self._prepare = prepare
        self._changed = threading.Condition(self.lock)
        self._known: dict[str, Source] = {}
        #: least recently used first
        self._by_name: OrderedDict[str, Resident] = OrderedDict()
        #: replaced or unloaded while a call was using them
        self._leaving: list[Resident] = []
        #: how many left to make room
        self.evictions = 0

    def known(self) -> list[str]:
        """Names that rows may ask for."""
        with self.lock:
            return sorted(self._known)

    def names(self) -> list[str]:
        """Names of the resident ones, least recently used first."""
        with self.lock:
            return list(self._by_name)

    def get(self, name: str) -> Resident | None:
        """A resident adapter, if it is one; it may leave at any time."""
        with self.lock:
            return self._by_name.get(name)

    def bytes(self) -> int:
        """Bytes of all adapter weights, free slots included."""
        with self.lock:
            return self._bytes()

    def register(self, name: str, folder: Path, digest: str) -> None:
        """Make an adapter known; a resident one of this name is dropped.

        Args:
            name: what callers call it.
            folder: its artifact.
            digest: digest of the artifact's manifest.
        """
        with self.lock:
            self._known[name] = Source(folder, digest)
            self._retire(name)

    def load(self, name: str, folder: Path) -> None:
        """Make an adapter known and resident, replacing another of its name."""
        prepared = self._prepare(folder)
        warn_of_passages(folder, prepared.passages)
        source = Source(folder, prepared.digest)
        with self.lock:
            self._put(name, source, prepared, wait=True, unasked=False)

    def ensure(self, name: str, *, wait: bool = True) -> bool:
        """Make a known adapter resident; False if it is already.

        Args:
            name: name of a known adapter.
            wait: wait for running calls to end if only their adapters could be evicted.

        Raises:
            UnknownNameError: not known.
            CapacityError: it can't fit.
            ArtifactError: it is damaged, or a different artifact than when it became known.
        """
        while True:
            with self.lock:
                source = self._source(name)
                if self._current(name, source) is not None:
                    self._by_name.move_to_end(name)
                    return False
            prepared = self._prepare(source.folder)
            if prepared.digest != source.digest:
                raise ArtifactError(
                    f"the adapter {name!r} has changed: another artifact is in {source.folder} now",
                    hint="Load it again, under this name or another: pool.load(name, folder).",
                )
            with self.lock:
                if self._put(name, source, prepared, wait=wait, unasked=True):
                    return True  # each placement is reported once, even if it is evicted right away

    def evict(self, name: str) -> bool:
        """Drop an adapter's weights; it stays known. False if it was not resident."""
        with self.lock:
            return self._retire(name)

    def forget(self, name: str) -> None:
        """Drop an adapter, including its name.

        Raises:
            UnknownNameError: not known.
        """
        with self.lock:
            self._source(name)
            del self._known[name]
            self._retire(name)

    @contextmanager
    def hold(self, names: Sequence[str], fetched: list[str]) -> Iterator[dict[str, Resident]]:
        """The named adapters, which stay resident within the block; one that is not is fetched first.

        Args:
            names: names of known adapters.
            fetched: gets the names of those that were fetched.

        Raises:
            UnknownNameError: not known.
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
                    with self.lock:
                        resident = self._current(name, self._source(name))
                        if resident is not None:
                            resident.pins += 1
                            self._by_name.move_to_end(name)
                            held[name] = resident
                            continue
                    if self.ensure(name, wait=False):
                        fetched.append(name)
            yield held
        finally:
            with self.lock:
                for resident in held.values():
                    resident.pins -= 1
                self._sweep()
                self._changed.notify_all()

    def _put(self, name: str, source: Source, prepared: PreparedAdapter, *, wait: bool, unasked: bool) -> bool:
        """Place an adapter; False if that is no longer wanted.

        Waiting releases the lock, so that everything is checked again after it.

        Args:
            name: name of the adapter.
            source: where it comes from.
            prepared: what was read there.
            wait: see `ensure`.
            unasked: this call does not assign the source to the name: if it has another one by now, that one stays.
        """
        compacted = False
        while True:
            if unasked and (self._known.get(name) is not source or self._current(name, source) is not None):
                return False
            self._retire(name)
            allocation = self._allocated(prepared) if self._fits(prepared) else None
            if allocation is not None:
                break
            if self._evict_one():
                continue
            # What is dropped includes what this placement began, so that a second time finds no more room.
            if self.weight_slots.compact() and not compacted:
                compacted = True
                continue
            self._wait_or_fail(name, prepared, wait)
            compacted = False
        self._known[name] = source
        self._by_name[name] = Resident(name, source, prepared.without_deltas(), allocation)
        return True

    def _source(self, name: str) -> Source:
        source = self._known.get(name)
        if source is None:
            raise UnknownNameError("adapter", name, self._known)
        return source

    def _current(self, name: str, source: Source) -> Resident | None:
        resident = self._by_name.get(name)
        return resident if resident is not None and resident.source is source else None

    def _retire(self, name: str) -> bool:
        """Remove a name's resident; its weights are freed when no call uses them any more."""
        old = self._by_name.pop(name, None)
        if old is not None:
            self._leaving.append(old)
            self._sweep()
        return old is not None

    def _sweep(self) -> None:
        for resident in [one for one in self._leaving if one.pins == 0]:
            self._leaving.remove(resident)
            self.weight_slots.remove(resident.allocation)

    def _evict_one(self) -> bool:
        victim = next((one for one in self._by_name.values() if one.pins == 0), None)
        if victim is None or not self._retire(victim.name):
            return False
        self.evictions += 1
        return True

    def _wait_or_fail(self, name: str, prepared: PreparedAdapter, wait: bool) -> None:
        if wait and (self._by_name or self._leaving):
            self._changed.wait()
            return
        budget = "" if self.max_bytes is None else f" and {self.max_bytes:,} bytes"
        raise CapacityError(
            f"the adapter {name!r} does not fit: the pool would have to grow by "
            f"{self.weight_slots.needs(prepared.deltas):,} bytes, but it may hold {self.max_resident} adapters"
            f"{budget}, and no more than the memory allows",
            hint="Raise max_resident or max_bytes, or use fewer adapters in one call.",
        )

    def _fits(self, prepared: PreparedAdapter) -> bool:
        if len(self._by_name) + len(self._leaving) >= self.max_resident:
            return False
        if self.max_bytes is None:
            return True
        return self._bytes() + self.weight_slots.needs(prepared.deltas) + prepared.head.bytes() <= self.max_bytes

    def _allocated(self, prepared: PreparedAdapter) -> Allocation | None:
        """Where an adapter was written; None if there is not enough memory."""
        try:
            return self.weight_slots.allocate(prepared.deltas)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None  # out here, so that the error and what it holds are gone

    def _bytes(self) -> int:
        residents = [*self._by_name.values(), *self._leaving]
        return self.weight_slots.bytes() + sum(resident.bytes() for resident in residents)
