"""Tensors that are the same in many adapters, held once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch._subclasses.fake_tensor import is_fake

from pefttools.deltas.adapter import AdapterDeltas, SiteDelta
from pefttools.deltas.kind import DeltaKind, size_of


class SharedTensors:
    """Tensors by content; one is freed when the last adapter that uses it is gone."""

    def __init__(self) -> None:
        self._found: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()

    def bytes(self) -> int:
        """Bytes of those that are held."""
        return size_of(self._found.values())

    def missing(self, deltas: AdapterDeltas) -> int:
        """Bytes of those that an adapter needs and that are not there yet."""
        needed = {_digest(name, tensor): tensor for name, tensor in _shared_of(deltas)}
        return size_of(tensor for digest, tensor in needed.items() if digest not in self._found)

    def put_in(self, deltas: AdapterDeltas) -> AdapterDeltas:
        """The same adapter, with its shared tensors replaced by those that are held."""
        if not any(True for _ in _shared_of(deltas)):
            return deltas
        sites = {name: SiteDelta(*map(self._held, site)) for name, site in deltas.sites.items()}
        return replace(deltas, sites=sites)

    def _held(self, part: DeltaKind) -> DeltaKind:
        changes: dict[str, Any] = {}
        for name in part.shared:
            own: torch.Tensor = getattr(part, name)
            changes[name] = self._found.setdefault(_digest(name, own), own)
        return replace(part, **changes) if changes else part  # type: ignore[type-var]


def _shared_of(deltas: AdapterDeltas) -> Iterator[tuple[str, torch.Tensor]]:
    for site in deltas.sites.values():
        for part in site:
            yield from ((name, getattr(part, name)) for name in part.shared)


def _digest(name: str, tensor: torch.Tensor) -> str:
    form = f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.device}".encode()
    content = tensor.detach().cpu().contiguous().view(torch.uint8)
    if is_fake(content):  # in a plan all adapters are one
        return form.decode()
    return hashlib.sha256(form + content.numpy().tobytes()).hexdigest()
