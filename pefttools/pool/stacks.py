"""Stacked weights of many adapters: at one site, one delta kind, a slot per adapter.

Slot 0 is the base: it does nothing. A row of a batch says by its slot which weights it gets. Tensors are plain
attributes, not module buffers: torch.compile then takes their first dimension as one that may change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from pefttools.deltas import SiteDelta, activate
from pefttools.deltas.kinds import Activation
from pefttools.pool.gathering import Rows

#: smallest size that ranks and widths are padded to
SMALLEST = 8


class Family(NamedTuple):
    """Deltas that share their slots: one kind and, where it has one, one padded size.

    Attributes:
        kind: name of the field of `SiteDelta`; ``norm_bottleneck`` for a bottleneck around a norm.
        size: padded rank or width; 0 where the kind has none.
        activation: of a bottleneck.
    """

    kind: str
    size: int = 0
    activation: Activation | None = None


def families_of(delta: SiteDelta) -> list[Family]:
    """The families of what a delta holds, but for dense changes and replaced parameters, which are no stacks."""
    found = [
        Family(kind)
        for kind in ("input_scale", "weight_scale", "output_scale", "bias")
        if getattr(delta, kind) is not None
    ]
    if delta.low_rank is not None:
        found.append(Family("low_rank", padded(delta.low_rank.rank)))
    if delta.bottleneck is not None:
        kind = "norm_bottleneck" if delta.bottleneck.around_norm else "bottleneck"
        found.append(Family(kind, padded(delta.bottleneck.size), delta.bottleneck.activation))
    return found


def padded(size: int) -> int:
    """The size that ranks, widths and lengths up to this one are padded to."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


@dataclass(frozen=True)
class Place:
    """Number format and device of a stack."""

    dtype: torch.dtype
    device: torch.device


class Stack(ABC):
    """Weights of one family at one site.

    Args:
        shapes: per tensor, the shape of one slot.
        capacity: number of slots.
        place: number format and device.
    """

    #: value of a slot that does nothing
    neutral: ClassVar[float] = 0.0

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], capacity: int, place: Place) -> None:
        self.tensors = {
            name: torch.full((capacity, *shape), self.neutral, dtype=place.dtype, device=place.device)
            for name, shape in shapes.items()
        }

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return sum(t[0].numel() * t.element_size() for t in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.slot_bytes * self.capacity

    @property
    def capacity(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def grow(self, capacity: int) -> None:
        """Make room for more adapters; what stands keeps its slots."""
        for name, old in self.tensors.items():
            new = old.new_full((capacity, *old.shape[1:]), self.neutral)
            new[: len(old)] = old
            # Replaced in one step: a call that is running reads the old or the new, and its slots are in both.
            self.tensors[name] = new

    def clear(self, slot: int) -> None:
        """Make a slot do nothing."""
        for tensor in self.tensors.values():
            tensor[slot] = self.neutral

    def write(self, slot: int, delta: SiteDelta) -> None:
        """Copy an adapter's weights into a slot."""
        self.clear(slot)
        for name, value in self.values(delta).items():
            target = self.tensors[name][slot]
            target[tuple(slice(0, size) for size in value.shape)] = value

    @abstractmethod
    def values(self, delta: SiteDelta) -> dict[str, torch.Tensor]:
        """What stands in a slot, unpadded, by tensor."""

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        """The site's output with each row's own delta.

        Args:
            x: what the delta reads, ``[rows, ..., in]``.
            y: the output so far, ``[rows, ..., out]``.
            rows: which slot each row has.
            module: the site's module.
        """
        raise NotImplementedError


class Vector(Stack):
    """One vector per slot."""

    neutral = 1.0

    def __init__(self, family: Family, delta: SiteDelta, capacity: int, place: Place) -> None:
        self.kind = family.kind
        super().__init__({"vector": tuple(getattr(delta, self.kind).shape)}, capacity, place)

    def values(self, delta: SiteDelta) -> dict[str, torch.Tensor]:
        return {"vector": getattr(delta, self.kind)}

    def vectors(self, rows: Rows, like: torch.Tensor) -> torch.Tensor:
        """The vector of each row, shaped and typed to go with ``like[rows, ..., size]``."""
        found = rows.of(self, "vector")
        return found.view(len(found), *(1,) * (like.dim() - 2), -1).to(like.dtype)


class InputScale(Vector):
    """A factor on the module's input, ``[in]``."""

    def scale(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        return x * self.vectors(rows, x)


class WeightScale(Vector):
    """A factor on the module's output without its bias, ``[out]``."""

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        bias = getattr(module, "bias", None)
        # Written so that a factor of one changes nothing, to the last bit.
        return y + (self.vectors(rows, y) - 1) * (y if bias is None else y - bias)


class OutputScale(Vector):
    """A factor on the module's whole output, ``[out]``."""

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        return y * self.vectors(rows, y)


class Bias(Vector):
    """A summand, ``[out]``."""

    neutral = 0.0

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        return y + self.vectors(rows, y)


class LowRankStack(Stack):
    """``a[rank, in]`` and ``b[rank, out]`` per slot, laid out as small batched products run fastest."""

    def __init__(self, family: Family, delta: SiteDelta, capacity: int, place: Place) -> None:
        example = delta.low_rank
        assert example is not None
        shapes = {"a": (family.size, example.a.shape[1]), "b": (family.size, example.b.shape[0])}
        super().__init__(shapes, capacity, place)

    def values(self, delta: SiteDelta) -> dict[str, torch.Tensor]:
        assert delta.low_rank is not None
        return {"a": delta.low_rank.a, "b": delta.low_rank.b.T}

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        if x.dim() != 3:
            return self.apply(_tokens(x), _tokens(y), rows, module).view(y.shape)
        a, b = rows.of(self, "a"), rows.of(self, "b")
        inner = _read(x.to(a.dtype), a)
        if y.dtype == b.dtype:
            # A linear layer's output is nobody else's yet: adding in place spares a copy of it.
            return y.baddbmm_(inner, b) if isinstance(module, nn.Linear) else torch.baddbmm(y, inner, b)
        return y + torch.bmm(inner, b).to(y.dtype)


def _read(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """``[rows, tokens, in]``, ``[rows, rank, in]`` -> ``[rows, tokens, rank]``."""
    if x.shape[1] == 1:
        # Of one token the weights are nearly all that is read: as the first factor they are read in their order.
        return torch.bmm(a, x.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(x, a.transpose(1, 2))


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """``[rows, ..., size]`` as ``[rows, tokens, size]``: pooled states have no tokens, latent attention has more."""
    return x.reshape(len(x), -1, x.shape[-1])


class BottleneckStack(Stack):
    """The two layers of a bottleneck per slot."""

    def __init__(self, family: Family, delta: SiteDelta, capacity: int, place: Place) -> None:
        example = delta.bottleneck
        assert example is not None
        assert family.activation is not None
        self.activation = family.activation
        inputs, outputs, size = example.down.shape[1], example.up.shape[0], family.size
        shapes = {"down": (inputs, size), "down_bias": (1, size), "up": (size, outputs), "up_bias": (1, outputs)}
        super().__init__(shapes, capacity, place)

    def values(self, delta: SiteDelta) -> dict[str, torch.Tensor]:
        it = delta.bottleneck
        assert it is not None
        return {"down": it.down.T, "down_bias": it.down_bias[None], "up": it.up.T, "up_bias": it.up_bias[None]}

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        return y + self.added(x, rows).to(y.dtype)

    def added(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """What the bottlenecks make of ``x[rows, ..., in]``: ``[rows, ..., out]``."""
        if x.dim() != 3:
            added = self.added(_tokens(x), rows)
            return added.view(*x.shape[:-1], added.shape[-1])
        down, down_bias, up, up_bias = (rows.of(self, name) for name in self.tensors)
        inner = activate(torch.baddbmm(down_bias, x.to(down.dtype), down), self.activation)
        return torch.baddbmm(up_bias, inner, up)


class NormBottleneckStack(BottleneckStack):
    """Bottlenecks around a norm, from its output to its input, which it then takes again."""

    def apply(self, x: torch.Tensor, y: torch.Tensor, rows: Rows, module: nn.Module) -> torch.Tensor:
        # Past the module's hooks, of which this is part.
        again = module.forward(x + self.added(y, rows).to(x.dtype))
        own = (rows.slots > 0).view(-1, *(1,) * (y.dim() - 1))
        # Rows without one keep what they have, be it another adapter's.
        return torch.where(own, again, y)


#: by kind, in the order in which they act
STACKS: dict[str, type[Vector] | type[LowRankStack] | type[BottleneckStack]] = {
    "input_scale": InputScale,
    "norm_bottleneck": NormBottleneckStack,
    "low_rank": LowRankStack,
    "weight_scale": WeightScale,
    "output_scale": OutputScale,
    "bias": Bias,
    "bottleneck": BottleneckStack,
}
