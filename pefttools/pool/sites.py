"""A site: a module of the base at which adapters act, with its stacks and the hooks that apply them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pefttools.deltas import SiteDelta
from pefttools.errors import ConfigError
from pefttools.pool.routing import Routing
from pefttools.pool.stacks import STACKS, Family, InputScale, Place, Stack, families_of

_ORDER = list(STACKS)


class Site:
    """One module of the base.

    Args:
        name: its path in the pool's model.
        module: the module; it stays as it is, two hooks aside.
        routing: of the pool.
    """

    def __init__(self, name: str, module: nn.Module, routing: Routing) -> None:
        self.name = name
        self.module = module
        self.routing = routing
        #: in the order in which they act; the second part of a key is the site that a parallel bottleneck reads
        self.stacks: dict[tuple[Family, str | None], Stack] = {}
        #: by key of the adapter: changes of the weight ``[out, in]``, and modules with parameters of their own
        self.dense: dict[int, torch.Tensor] = {}
        self.replaced: dict[int, nn.Module] = {}
        #: another site reads this one's input
        self.is_read = False
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def of(self, family: Family) -> Iterator[Stack]:
        """The stacks of a family."""
        return (stack for (own, _), stack in self.stacks.items() if own == family)

    def add_stacks(self, delta: SiteDelta, capacities: Mapping[Family, int], reads: str | None, place: Place) -> None:
        """Make the stacks that a delta needs and that are not there yet."""
        stacks = dict(self.stacks)
        for family in families_of(delta):
            key = (family, reads if family.kind == "bottleneck" else None)
            if key not in stacks:
                stacks[key] = STACKS[family.kind](family, delta, capacities[family], place)
        if len(stacks) > len(self.stacks):
            # A new dictionary, since a running call may be going through the old one.
            self.stacks = dict(sorted(stacks.items(), key=lambda item: _ORDER.index(item[0][0].kind)))

    def drop(self, family: Family) -> None:
        """Drop the stacks of a family."""
        self.stacks = {key: stack for key, stack in self.stacks.items() if key[0] != family}

    def write(self, slots: Mapping[Family, int], key: int, delta: SiteDelta | None, reads: str | None = None) -> None:
        """Put an adapter's deltas into its slots; those slots of it that it does not use here are cleared.

        Args:
            slots: the adapter's slot in each of its families.
            key: of the adapter, for what is not stacked.
            delta: what it does here; None: nothing.
            reads: site that its bottleneck reads, where that is another one.
        """
        used = set() if delta is None else set(families_of(delta))
        for (family, own_reads), stack in self.stacks.items():
            if family not in slots:
                continue
            if delta is not None and family in used and (family.kind != "bottleneck" or own_reads == reads):
                stack.write(slots[family], delta)
            else:
                stack.clear(slots[family])
        if delta is not None and delta.dense is not None:
            self.dense[key] = delta.dense.to(next(self.module.parameters()).device)
        if delta is not None and delta.replace is not None:
            self.replaced[key] = _twin(self.module, delta.replace)

    def forget(self, key: int) -> None:
        """Drop what is not stacked of an adapter."""
        self.dense.pop(key, None)
        self.replaced.pop(key, None)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.is_read:
            self.routing.inputs[self.name] = args[0]
        for (family, _), stack in self.stacks.items():
            slots = self.routing.slots.get(family)
            if slots is not None and isinstance(stack, InputScale):
                if args[0].shape[0] != slots.shape[0]:
                    raise self._mixed_up(args[0])
                args = (stack.scale(args[0], self.routing.of(slots)), *args[1:])
        return args

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not (self.stacks or self.dense or self.replaced):
            return output
        if isinstance(output, tuple):  # of a block that returns more than its states
            return (self._adapted(module, args, output[0]), *output[1:])
        return self._adapted(module, args, output)

    def _adapted(self, module: nn.Module, args: tuple[Any, ...], y: torch.Tensor) -> torch.Tensor:
        x = args[0] if args else y  # blocks may be called by names; what acts there reads their output alone
        if self.routing.rows and (self.dense or self.replaced):
            y = self._unstacked(x, y)
        for (family, reads), stack in self.stacks.items():
            slots = self.routing.slots.get(family)
            if slots is None or family.kind == "input_scale":
                continue
            if y.shape[0] != slots.shape[0]:
                raise self._mixed_up(y)
            read = x
            if family.kind == "bottleneck":
                read = y if reads is None else self.routing.inputs[reads]
            y = stack.apply(read, y, self.routing.of(slots), module)
        return y

    def _unstacked(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Dense changes and replaced parameters; row by row, so that no result depends on a row's neighbours."""
        if y.shape[0] != self.routing.total:
            raise self._mixed_up(y)
        y = y.clone()
        for key, rows in self.routing.rows.items():
            dense, replaced = self.dense.get(key), self.replaced.get(key)
            for row in rows:
                one = x[row : row + 1]
                if replaced is not None:
                    y[row : row + 1] = replaced(one)
                if dense is not None:
                    y[row : row + 1] += nn.functional.linear(one.to(dense.dtype), dense).to(y.dtype)
        return y

    def _mixed_up(self, y: torch.Tensor) -> ConfigError:
        return ConfigError(
            f"the module {self.name} sees {y.shape[0]} rows of a batch of {self.routing.total}: "
            "which adapter is whose can't be told there, so an adapter that acts at it can't be served in a pool",
            hint="Serve it alone, by pefttools.load, or merge it.",
        )


def _twin(module: nn.Module, parameters: Mapping[str, torch.Tensor]) -> nn.Module:
    """A module without hooks that shares everything with another but the parameters that are given.

    The module itself is never given other parameters, not even for a moment: another thread may be reading it.
    """
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    twin._forward_hooks, twin._forward_pre_hooks = OrderedDict(), OrderedDict()
    for name, value in parameters.items():
        own = module.get_parameter(name)
        twin._parameters[name] = nn.Parameter(value.to(own), requires_grad=False)
    return twin
