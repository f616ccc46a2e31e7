"""Parameters, gradients and optimizer state sharded over devices, as by torch's ``fully_shard`` (FSDP2).

Each block of layers is gathered before it runs and freed after it; embeddings and heads, which belong to no block, stay
gathered from the first forward pass to the end of the backward pass. Besides the gathered block there is one buffer: in
the forward pass that of its own gathering, in the backward pass that of the next block; and one with the gradients that
were reduced last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pefttools.errors import ConfigError
from pefttools.planning.counter import Kind, StorageCounter
from pefttools.sites import transformers_models


class Sharding:
    """What one of several devices holds of a model, tracked through its passes.

    Entered as a context it follows the model's modules. Tensors stay whole; they are only counted as sharded.

    Args:
        model: the model whose passes are followed.
        devices: number of devices.
        counter: counts what is gathered and freed.

    Raises:
        ConfigError: the model does not say what its blocks are.
    """

    def __init__(self, model: nn.Module, devices: int, counter: StorageCounter) -> None:
        self.model = model
        self.devices = devices
        self.counter = counter
        inner = transformers_models(model)
        names = {name for module in inner for name in module._no_split_modules or ()}
        self._blocks = [module for module in model.modules() if type(module).__name__ in names]
        if not self._blocks:
            raise ConfigError("sharding can't be planned for a model that does not name its layer blocks")
        self._roots = [model, *inner]
        of_blocks = {id(p) for block in self._blocks for p in block.parameters()}
        rest = [p for p in model.parameters() if id(p) not in of_blocks]
        self._units = [_Unit(rest), *(_Unit(block.parameters()) for block in self._blocks)]
        self._owner = {id(p): unit for unit in self._units for p in unit.parameters}
        self._order: list[_Unit] = []
        self._backward = False
        self._behind: _Unit | None = None
        self._last_gathering: torch.Tensor | None = None
        self._last_reduced: torch.Tensor | None = None
        self._reduced: set[int] = set()
        self._handles: list[Any] = []

    def __enter__(self) -> Sharding:
        for parameter in self.model.parameters():
            self.counter.track(parameter, "weights", shares=self.devices)
        root = self._units[0]
        for module in self._roots:
            self._handles.append(module.register_forward_pre_hook(lambda *_: self._before(root), prepend=True))
        for unit, block in zip(self._units[1:], self._blocks, strict=True):
            self._handles += [
                block.register_forward_pre_hook(lambda *_, unit=unit: self._before(unit), prepend=True),
                block.register_forward_hook(lambda *found, unit=unit: self._after(unit, found[-1])),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.end()

    def gradient(self, parameter: torch.Tensor) -> None:
        """A parameter has its gradient: whole, until the gradients of its block are reduced."""
        gradient = parameter.grad
        assert gradient is not None
        if id(parameter) in self._reduced:
            # The sum of earlier passes is sharded already; this pass's gradient is held in addition.
            self._owner[id(parameter)].fresh.append(self._buffer(gradient.untyped_storage().nbytes(), "gradients"))
        else:
            self.counter.track(gradient, "gradients")
        self._owner[id(parameter)].waiting.append(parameter)

    def end(self) -> None:
        """Called when a backward pass, or an evaluation, has ended."""
        if self._behind is not None:
            self._reduce(self._behind)
        for unit in self._units:
            if unit.waiting:
                self._reduce(unit)
            unit.gathered = unit.gathering = None
        self._order, self._backward, self._behind = [], False, None
        self._last_gathering = self._last_reduced = None

    def _before(self, unit: _Unit) -> None:
        if unit.gathered is not None:
            return  # a block that runs again within its backward pass, or the inner one of two roots
        gathering = self._buffer(unit.bytes(self.devices), "weights")
        self._last_gathering = None
        unit.gathered = self._buffer(unit.bytes(self.devices), "weights")
        self._last_gathering = gathering

    def _after(self, unit: _Unit, output: Any) -> None:
        if self._backward:
            return
        unit.gathered = None
        self._order.append(unit)
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, torch.Tensor) and first.requires_grad:
            first.register_hook(lambda _: self._before_backward(unit))

    def _before_backward(self, unit: _Unit) -> None:
        self._backward = True
        self._last_gathering = None
        if self._behind is not None:
            self._reduce(self._behind)
        self._behind = unit
        if unit.gathering is None:
            unit.gathering = self._buffer(unit.bytes(self.devices), "weights")
        unit.gathered = self._buffer(unit.bytes(self.devices), "weights")
        unit.gathering = None
        position = self._order.index(unit)
        if position > 0:
            following = self._order[position - 1]
            following.gathering = self._buffer(following.bytes(self.devices), "weights")

    def _reduce(self, unit: _Unit) -> None:
        unit.gathered = None
        self._behind = None
        self._last_reduced = None
        if not unit.waiting:
            return
        whole = sum(_padded(p, self.devices) for p in unit.waiting)
        self._last_reduced = self._buffer(whole, "gradients")
        unit.fresh.clear()
        for parameter in unit.waiting:
            assert parameter.grad is not None
            self.counter.track(parameter.grad, "gradients", shares=self.devices)
            self._reduced.add(id(parameter))
        unit.waiting.clear()

    def _buffer(self, size: int, kind: Kind) -> torch.Tensor:
        buffer = torch.empty(size, dtype=torch.uint8)
        self.counter.track(buffer, kind)
        return buffer


class _Unit:
    """Parameters that are gathered together.

    Attributes:
        parameters: all of them.
        gathered: represents them while they are whole.
        gathering: a buffer into which they are being gathered.
        waiting: those whose gradients are waiting to be reduced.
        fresh: represent gradients that are not added up yet.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self.parameters = list({id(p): p for p in parameters}.values())
        self.gathered: torch.Tensor | None = None
        self.gathering: torch.Tensor | None = None
        self.waiting: list[torch.Tensor] = []
        self.fresh: list[torch.Tensor] = []

    def bytes(self, devices: int) -> int:
        """Bytes of all parameters, each padded to a multiple of the number of devices."""
        return sum(_padded(p, devices) for p in self.parameters)


def _padded(tensor: torch.Tensor, devices: int) -> int:
    """Bytes of a tensor whose first dimension is padded so that it can be split evenly."""
    if tensor.dim() == 0:
        return tensor.element_size() * devices
    rows = -(-tensor.shape[0] // devices) * devices
    return rows * (tensor.numel() // max(tensor.shape[0], 1)) * tensor.element_size()
