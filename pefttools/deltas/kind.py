"""The contract of a delta kind: one way in which an adapter acts at a site, a module of the base model.

A new kind is a class in a file of its own, listed in `KINDS`. Merging, exporting, stacking and counting bytes loop over
the kinds and name none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, cast

import torch
from torch import nn

from pefttools.errors import ConfigError

#: smallest size that ranks and widths are padded to
SMALLEST = 8


class Family(NamedTuple):
    """Deltas that share their slots in a pool: one kind and, if it has one, one padded size.

    Attributes:
        kind: name of the kind.
        size: padded rank, width or length; 0 if the kind has none.
        form: what else must be the same, e.g. a bottleneck's activation.
    """

    kind: str
    size: int = 0
    form: str | None = None


class At(NamedTuple):
    """Where a kind is applied to the rows of a batch.

    Attributes:
        module: the site's module.
        slots: slot of each row, ``[rows]``; 0 if the row has no delta of this family.
        form: form of the family.
        size: size of the family.
    """

    module: nn.Module
    slots: torch.Tensor
    form: str | None
    size: int = 0


class DeltaKind(ABC):
    """What one adapter does at one site, in one way. Each is a frozen dataclass of tensors."""

    name: ClassVar[str]
    #: whether a weighted sum of several is of the same kind
    additive: ClassVar[bool] = False
    #: whether a weighted sum is an average, over adapters that all have it: a fully trained module
    averaged: ClassVar[bool] = False
    #: whether it is a change of the weight and the bias of a linear layer
    linear: ClassVar[bool] = True
    #: whether it changes the weight, not only the bias
    changes_weight: ClassVar[bool] = True
    #: whether many adapters' weights are in one tensor, a slot each; if not, they are kept and applied separately
    stacked: ClassVar[bool] = True
    #: names of tensors that are the same in many adapters: a pool holds them once, and they are not among `bytes`
    shared: ClassVar[tuple[str, ...]] = ()
    #: whether it acts on the module's input, before the module runs
    on_input: ClassVar[bool] = False
    #: whether it reads what the module returned, not what it was given
    reads_output: ClassVar[bool] = False
    #: value of a slot that does nothing
    neutral: ClassVar[float] = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of its own tensors."""
        common = [getattr(self, name) for name in self.shared]
        return size_of(tensors_of(self)) - size_of(common)

    @property
    def reads(self) -> str | None:
        """Another site whose input it reads; None if it acts on what passes through its own."""
        return None

    def reading(self, site: str) -> Self:
        """The same, if it `reads` another site: with the name that this site has in another model."""
        raise NotImplementedError

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return _moved(self, device)

    @abstractmethod
    def norm(self) -> float:
        """Size of its effect: the Frobenius norm of a change; for a factor, its distance from one."""

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A linear layer's weight ``[out, in]`` with this folded in."""
        return weight

    def changed_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """A linear layer's bias ``[out]`` with this folded in."""
        return bias

    def fold(self, parameters: Mapping[str, torch.Tensor], site: str) -> dict[str, torch.Tensor]:
        """A module's parameters with this folded in; the given ones are not changed.

        Raises:
            ConfigError: it is not a change of the module's parameters.
        """
        if not self.linear:
            raise ConfigError(f"the {self.name.replace('_', ' ')} at {site} can't be folded into the module's weights")
        found = dict(parameters)
        if self.changes_weight:
            found["weight"] = self.changed_weight(found["weight"]).to(found["weight"])
        if "bias" in found:
            found["bias"] = self.changed_bias(found["bias"]).to(found["bias"])
        return found

    @classmethod
    def summed(cls, parts: Sequence[tuple[Self, float]], site: str) -> Self:
        """The weighted sum of several, if they are `additive` or `averaged`.

        Raises:
            ConfigError: they do not go together.
        """
        raise ConfigError(f"{cls.name} can't be added up")

    # For a pool.

    def family(self) -> Family:
        """Which others it shares slots with."""
        return Family(self.name)

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        """Shape of one slot, by tensor.

        Args:
            size: padded size of its family.
        """
        return {name: tuple(value.shape) for name, value in self.values().items()}

    def values(self) -> dict[str, torch.Tensor]:
        """What is written to a slot, by tensor; those smaller than the slot's go to its beginning."""
        raise NotImplementedError

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        """What passes through the site, with each row's own delta.

        Args:
            x: what the delta reads, ``[rows, ..., in]``.
            y: what passes, ``[rows, ..., out]``: the module's output, or its input for a kind that is `on_input`.
            weights: per tensor of a slot, those of each row ``[rows, ...]``.
            at: where.
        """
        raise NotImplementedError

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What is done to one adapter's rows if the kind is not `stacked`: from ``(x, y)`` to a new ``y``."""
        raise NotImplementedError


class WeightChange(DeltaKind):
    """A change of the weight, stored in fewer numbers than the weight has."""

    @abstractmethod
    def dense(self) -> torch.Tensor:
        """The change of the weight, ``[out, in]``."""

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.dense()))

    def changed_weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.dense().to(weight)


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def padded(size: int) -> int:
    """The size that ranks, widths and lengths up to this one are padded to."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def tensors_of(value: object) -> list[torch.Tensor]:
    """The tensors that a dataclass holds."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for one in value.values() for tensor in tensors_of(one)]
    if is_dataclass(value):
        return [tensor for one in fields(value) for tensor in tensors_of(getattr(value, one.name))]
    return []


_T = TypeVar("_T")


def converted(value: _T, dtype: torch.dtype) -> _T:
    """The same in a number format; whole numbers stay as they are."""
    return _mapped(value, lambda tensor: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor)


def _moved(value: _T, device: torch.device) -> _T:
    return _mapped(value, lambda tensor: tensor.to(device))


def _mapped(value: _T, change: Callable[[torch.Tensor], torch.Tensor]) -> _T:
    """The same with every tensor changed."""
    found: Any = value
    if isinstance(value, torch.Tensor):
        found = change(value)
    elif isinstance(value, dict):
        found = {name: _mapped(one, change) for name, one in value.items()}
    elif is_dataclass(value):
        found = replace(value, **{one.name: _mapped(getattr(value, one.name), change) for one in fields(value)})  # type: ignore[type-var]
    return cast("_T", found)
