"""Selective activation checkpointing: what elementwise operations can recompute from what is kept anyway is not kept.

A layer's backward pass keeps, among much else, the input of a norm and the norm's result, both sides of a gate and
their product. The results are dropped here and recomputed when a gradient needs them; nothing else runs twice,
matrix products least of all. Tensors are identified by their storages; what was changed in place is kept as it is.

The choice of what is cheap to recompute follows selective recomputation (Korthikanti et al.,
https://arxiv.org/abs/2205.05198).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_F, _T = torch.nn.functional, torch.Tensor
#: every element of the result comes from one element, or one row, of each input
_CHEAP = frozenset(
    {
        torch.add, _T.add, _T.__add__, _T.__radd__, torch.sub, _T.sub, _T.__sub__, _T.__rsub__, torch.rsub,
        torch.neg, _T.neg, _T.__neg__, torch.mul, _T.mul, _T.__mul__, _T.__rmul__, torch.div, _T.div,
        _T.__truediv__, _T.__rtruediv__,
        torch.pow, _T.pow, _T.__pow__, torch.square, _T.square, torch.sqrt, _T.sqrt, torch.rsqrt, _T.rsqrt, torch.exp,
        _T.exp, torch.erf, _T.erf, torch.tanh, _T.tanh, torch.sigmoid, _T.sigmoid, _F.sigmoid, _F.tanh, torch.relu,
        _T.relu, _F.relu, _F.relu6, _F.silu, _F.gelu, _F.mish, _F.softplus, _F.elu, _F.leaky_relu, _F.hardswish,
        torch.clamp, _T.clamp, _T.to, _T.float, _T.bfloat16, _T.half, _T.type, _T.type_as, _F.layer_norm,
        torch.layer_norm, _F.rms_norm, torch.rms_norm,
    }
)  # fmt: skip

_View = tuple[torch.Size, tuple[int, ...], Any]


class _Node:
    """A storage, as it was when it was first seen.

    Attributes:
        version: count of changes in place.
        kept: a tensor on it, that the backward pass holds.
        make: recomputes it; None if it can't be.
        inputs: what it is made of.
        asked: how often a gradient will still need it.
    """

    __slots__ = ("asked", "held", "inputs", "kept", "make", "version")

    def __init__(self, version: int, inputs: tuple[_Node, ...] = (), make: Callable[[], Tensor] | None = None) -> None:
        self.version = version
        self.inputs = inputs
        self.make = make
        self.kept: Tensor | None = None
        self.held: Tensor | None = None
        self.asked = 0

    @property
    def available(self) -> bool:
        """Kept, or computed from what is."""
        return self.kept is not None or (self.make is not None and all(one.available for one in self.inputs))

    def value(self) -> Tensor:
        """The tensor; one that will be needed again stays until then."""
        if self.kept is not None:
            if self.kept._version != self.version:
                raise RuntimeError("a tensor that a gradient needs has been changed in place")
            return self.kept
        if self.held is not None:
            return self.held
        assert self.make is not None
        value = self.make()
        if self.asked > 0:
            self.held = value
        return value


class Selective(TorchFunctionMode):
    """Sees the elementwise operations of a layer while it runs, and decides what its backward pass keeps."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, _Node] = {}
        self._references: list[weakref.ref[Any]] = []
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def __enter__(self) -> Selective:
        self._hooks.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)  # type: ignore[no-untyped-call]
        self._hooks.__exit__(*failure)
        self._nodes.clear()
        self._references.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _CHEAP and isinstance(result, Tensor):
            self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        storage = result.untyped_storage()
        dense = storage.nbytes() == result.numel() * result.element_size()
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not dense or any(tensor.untyped_storage() is storage for tensor in tensors):
            return
        inputs: list[_Node] = []

        def remember(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            node = self._node(value)
            inputs.append(node)
            return _Read(node, _view(value))

        read = [remember(value) for value in args]
        named = {name: remember(value) for name, value in kwargs.items()}
        kind = result.device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        strides = result.stride()

        def make() -> Tensor:
            with torch.no_grad(), torch.autocast(kind, cast, enabled=cast is not None):
                made: Tensor = func(*map(_read, read), **{name: _read(value) for name, value in named.items()})
            if made.stride() != strides:
                made = torch.empty_strided(made.shape, strides, dtype=made.dtype, device=made.device).copy_(made)
            return made

        self._put(storage, _Node(result._version, tuple(inputs), make))

    def _node(self, tensor: Tensor) -> _Node:
        storage = tensor.untyped_storage()
        node = self._nodes.get(id(storage))
        if node is None or node.version != tensor._version:
            node = _Node(tensor._version)
            if isinstance(tensor, torch.nn.Parameter):
                node.kept = tensor
            self._put(storage, node)
        return node

    def _put(self, storage: Any, node: _Node) -> None:
        key, nodes = id(storage), self._nodes
        nodes[key] = node
        # Another storage may get the same id when this one is gone.
        self._references.append(weakref.ref(storage, lambda _: nodes.pop(key, None)))

    def _pack(self, tensor: Tensor) -> tuple[_Node, _View] | Tensor:
        if tensor.layout != torch.strided:
            return tensor
        node = self._node(tensor)
        if not node.available:
            # What an operation keeps of its own results must not hold that operation.
            node.kept = tensor if tensor.grad_fn is None else tensor.detach()
        if node.kept is None:
            node.asked += 1
        return node, _view(tensor)


class _Read:
    """A tensor that an operation read."""

    __slots__ = ("node", "view")

    def __init__(self, node: _Node, view: _View) -> None:
        self.node = node
        self.view = view


def _read(value: Any) -> Any:
    return _viewed(value.node.value(), value.view) if isinstance(value, _Read) else value


def _unpack(packed: tuple[_Node, _View] | Tensor) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    node, view = packed
    value = node.value()
    node.asked -= 1
    if node.asked <= 0:
        node.held = None
    return _viewed(value, view)


def _view(tensor: Tensor) -> _View:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _viewed(tensor: Tensor, view: _View) -> Tensor:
    return tensor if _view(tensor) == view else tensor.as_strided(*view)
