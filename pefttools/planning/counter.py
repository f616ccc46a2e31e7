"""Bytes of live tensors, by what they are for."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pefttools.planning.mode import Mode

Kind = Literal["weights", "gradients", "optimizer", "other"]
#: growth that is worth a garbage collection
_GROWTH = 1.005
KINDS: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "other")


class StorageCounter(Mode):
    """Counts the bytes of live storages by kind, and keeps the breakdown at the moment with the largest sum.

    It sees every tensor that an operation returns and tracks its storage until it is freed; views share a storage and
    count once. Works with real and with fake tensors.

    Args:
        device: only tensors on devices of its type are counted.
        where: called at every new peak.
        granularity: sizes are rounded up to a multiple of it.

    Attributes:
        peak: bytes by kind at the moment when their sum was largest.
        most: the maximum bytes of each kind, each at its own moment.
        collect: let Python collect cyclic garbage before a new peak is believed. Operations on fake tensors leave
            cycles that the real ones do not.
    """

    def __init__(self, device: torch.device, where: Callable[[], str] | None = None, granularity: int = 1) -> None:
        super().__init__()
        self.device_type = device.type
        self.where = where
        self.granularity = granularity
        self.collect = False
        self._clean = 0
        self.peak_at = ""
        self.now: Counter[Kind] = Counter()
        self.peak: Counter[Kind] = Counter()
        self.most: Counter[Kind] = Counter()
        self._kinds: dict[int, tuple[Kind, int]] = {}
        self._references: dict[int, weakref.ref[Any]] = {}

    def track(self, tensor: torch.Tensor, kind: Kind, shares: int = 1) -> None:
        """Count a tensor's storage as `kind`, even if it was counted as something else.

        Args:
            tensor: the tensor with the storage.
            kind: what it is for; ``other`` changes nothing that was counted before.
            shares: devices that share the storage; one share is counted from now on.
        """
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        if kind == "other" and key in self._kinds:
            return
        # A fake tensor knows which device it stands for; asking for its device would be an operation of its own.
        if getattr(tensor, "fake_device", storage.device).type != self.device_type:
            return
        size = -(-storage.nbytes() // (shares * self.granularity)) * self.granularity
        before = self._kinds.get(key)
        if before is not None:
            self.now[before[0]] -= before[1]
            self._kinds[key] = (kind, size if shares > 1 else before[1])
            self.now[kind] += self._kinds[key][1]
            self.most[kind] = max(self.most[kind], self.now[kind])
            if self.now.total() == self.peak.total():
                self.peak = self.now.copy()  # the same moment, better known
            return
        self._kinds[key] = (kind, size)
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.now[kind] += size
        self.most[kind] = max(self.most[kind], self.now[kind])
        if self.collect and self.now.total() > max(self.peak.total(), _GROWTH * self._clean):
            gc.collect()
            self._clean = self.now.total()
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()
            if self.where is not None:
                self.peak_at = self.where()

    def reset_peak(self) -> None:
        """Start again from what is live now."""
        if self.collect:
            gc.collect()
            gc.collect()  # what the first pass freed may have held more
        self._clean = 0
        self.peak = self.now.copy()
        self.most = self.now.copy()
        self.peak_at = ""

    def _forget(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        del self._references[key]
        self.now[kind] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.track(leaf, "other")
        return result


def weights_of(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers, with what quantized layers keep along with them."""
    for tensor in (*model.parameters(), *model.buffers()):
        yield from _parts_of(tensor)
        state = getattr(tensor, "quant_state", None)
        yield from _tensors_of(state)
    for module in model.modules():
        yield from _tensors_of(getattr(module, "state", None))


def _parts_of(tensor: Any) -> Iterator[torch.Tensor]:
    """A tensor, or the inner tensors of a tensor subclass."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts_of(getattr(tensor, name))
    else:
        yield tensor


def _tensors_of(state: Any) -> Iterator[torch.Tensor]:
    for value in vars(state).values() if hasattr(state, "__dict__") else ():
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value).__name__ == "QuantState":  # double quantization keeps a second state
            yield from _tensors_of(value)
