"""A site: a module of the base at which adapters act, with its stacks and the hooks that apply them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from pefttools.deltas.adapter import ORDER, SiteDelta
from pefttools.deltas.kind import DeltaKind, Family
from pefttools.errors import ConfigError
from pefttools.pool.routing import Routing
from pefttools.pool.stack import Stack, TensorOptions


class Unstacked(NamedTuple):
    """What one adapter does that is not stacked.

    Attributes:
        part: the delta.
        apply: computes a new output from what it reads and the module's output.
    """

    part: DeltaKind
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Site:
    """One module of the base.

    Args:
        name: its path in the pool's model.
        module: the module; it stays as it is, apart from two hooks.
        routing: the pool's routing.
    """

    def __init__(self, name: str, module: nn.Module, routing: Routing) -> None:
        self.name = name
        self.module = module
        self.routing = routing
        #: in the order in which they act; the second part of a key is another site whose input is read
        self.stacks: dict[tuple[Family, str | None], Stack] = {}
        #: by key of the adapter
        self.unstacked: dict[int, list[Unstacked]] = {}
        #: whether another site reads this one's input
        self.is_read = False
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def of(self, family: Family) -> Iterator[Stack]:
        """The stacks of a family."""
        return (stack for (own, _), stack in self.stacks.items() if own == family)

    def add_stacks(self, delta: SiteDelta, capacities: Mapping[Family, int], options: TensorOptions) -> None:
        """Make the stacks that a delta needs and that are not there yet."""
        stacks = dict(self.stacks)
        for part in delta:
            key = (family := part.family(), part.reads)
            if part.stacked and key not in stacks:
                stacks[key] = Stack(family, part, capacities[family], options)
        if len(stacks) > len(self.stacks):
            # A new dictionary, since a running call may be iterating over the old one.
            self.stacks = dict(sorted(stacks.items(), key=lambda item: ORDER[item[0][0].kind]))

    def drop(self, family: Family) -> None:
        """Drop the stacks of a family."""
        self.stacks = {key: stack for key, stack in self.stacks.items() if key[0] != family}

    def write(self, slots: Mapping[Family, int], key: int, delta: SiteDelta) -> None:
        """Put an adapter's deltas into its slots; those slots of it that it does not use here are cleared.

        Args:
            slots: the adapter's slot in each of its families.
            key: of the adapter, for what is not stacked.
            delta: what it does here.
        """
        used = {(part.family(), part.reads): part for part in delta if part.stacked}
        for found, stack in self.stacks.items():
            if (family := found[0]) not in slots:
                continue
            if found in used:
                stack.write(slots[family], used[found])
            else:
                stack.clear(slots[family])
        if alone := [Unstacked(part, part.alone(self.module)) for part in delta if not part.stacked]:
            self.unstacked[key] = alone

    def forget(self, key: int) -> None:
        """Drop what is not stacked of an adapter."""
        self.unstacked.pop(key, None)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.is_read:
            self.routing.inputs[self.name] = args[0]
        for (family, _), stack in self.stacks.items():
            slots = self.routing.slots.get(family)
            if slots is not None and stack.kind.on_input:
                if args[0].shape[0] != slots.shape[0]:
                    raise self._mixed_up(args[0])
                args = (stack.apply(args[0], args[0], self.routing.of(slots), module), *args[1:])
        return args

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not (self.stacks or self.unstacked):
            return output
        if isinstance(output, tuple):  # from a block that returns more than its states
            return (self._adapted(module, args, output[0]), *output[1:])
        return self._adapted(module, args, output)

    def _adapted(self, module: nn.Module, args: tuple[Any, ...], y: torch.Tensor) -> torch.Tensor:
        x = args[0] if args else y  # blocks may be called with keywords; what acts there reads only their output
        if self.routing.rows and self.unstacked:
            y = self._row_by_row(x, y)
        for (family, reads), stack in self.stacks.items():
            slots = self.routing.slots.get(family)
            if slots is None or stack.kind.on_input:
                continue
            if y.shape[0] != slots.shape[0]:
                raise self._mixed_up(y)
            y = stack.apply(self._read(stack.kind, reads, x, y), y, self.routing.of(slots), module)
        return y

    def _read(self, kind: type[DeltaKind], reads: str | None, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What a delta reads: this module's input or output, or another site's input."""
        if reads is not None:
            return self.routing.inputs[reads]
        return y if kind.reads_output else x

    def _row_by_row(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What is not stacked; row by row, so that no result depends on a row's neighbours."""
        if y.shape[0] != self.routing.total:
            raise self._mixed_up(y)
        y = y.clone()
        for key, rows in self.routing.rows.items():
            for row in rows:
                for part, apply in self.unstacked.get(key, ()):
                    read = self._read(type(part), part.reads, x, y)
                    y[row : row + 1] = apply(read[row : row + 1], y[row : row + 1])
        return y

    def _mixed_up(self, y: torch.Tensor) -> ConfigError:
        return ConfigError(
            f"the module {self.name} sees {y.shape[0]} rows of a batch of {self.routing.total}: "
            "rows can't be matched with adapters there, so an adapter that acts on it can't be served in a pool",
            hint="Use it alone, with pefttools.load, or merge it.",
        )
