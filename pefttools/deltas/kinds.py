"""The delta kinds: what the trained state of any method does at a site, a module of the base model.

The order of their effects at a site, for an input ``x`` and the base module's weight ``W`` and bias ``b``::

    x  = InputScale * x
    y  = W x + LowRank(x) + Dense(x)
    y  = WeightScale * y                 DoRA's: the bias is not scaled
    y  = y + b
    y  = OutputScale * y                 IA3's: the bias is scaled too
    y  = y + Bias
    y  = y + Bottleneck(y)               or of another site's input
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch.nn import functional

Activation = Literal["relu", "gelu", "silu", "tanh"]


@dataclass(frozen=True)
class LowRank:
    """``y += b a x``; a scale is folded into `b`.

    Attributes:
        a: ``[rank, in]``.
        b: ``[out, rank]``.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def dense(self) -> torch.Tensor:
        """The change of the weight, ``[out, in]``."""
        return self.b @ self.a


@dataclass(frozen=True)
class Bottleneck:
    """``y += up act(down x + down_bias) + up_bias``; a scale is folded into `up` and `up_bias`.

    Attributes:
        down: ``[size, in]``.
        down_bias: ``[size]``.
        up: ``[out, size]``.
        up_bias: ``[out]``.
        activation: its name.
        reads: site whose input is read; None: this site's own output.
        around_norm: the site is a norm, and what the bottleneck makes of its output is added to its input, which the
            norm then takes again: ``y = norm(x + up act(down norm(x) + down_bias) + up_bias)``.
    """

    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    activation: Activation
    reads: str | None = None
    around_norm: bool = False

    @property
    def size(self) -> int:
        return self.down.shape[0]


def activate(x: torch.Tensor, name: Activation) -> torch.Tensor:
    """A bottleneck's non-linearity, by name. Each gives zero for zero, so that a bottleneck can be padded."""
    if name == "relu":
        return functional.relu(x)
    if name == "gelu":
        return functional.gelu(x)
    if name == "silu":
        return functional.silu(x)
    return torch.tanh(x)


@dataclass(frozen=True)
class SiteDelta:
    """Everything that one adapter does at one site; what is None does nothing.

    Attributes:
        input_scale: ``[in]``.
        low_rank: see `LowRank`.
        dense: change of the weight, ``[out, in]``.
        weight_scale: ``[out]``, on the output without its bias.
        output_scale: ``[out]``, on the output with its bias.
        bias: ``[out]``, added.
        bottleneck: see `Bottleneck`.
        replace: the module's own parameters, by name.
    """

    input_scale: torch.Tensor | None = None
    low_rank: LowRank | None = None
    dense: torch.Tensor | None = None
    weight_scale: torch.Tensor | None = None
    output_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    bottleneck: Bottleneck | None = None
    replace: dict[str, torch.Tensor] | None = None

    def to(self, device: torch.device) -> SiteDelta:
        """The same on a device."""
        return _moved(self, device)

    def kinds(self) -> list[str]:
        """Names of what it holds."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]


_T = TypeVar("_T")


def _moved(value: _T, device: torch.device) -> _T:
    """A tensor, or whatever holds some, on a device."""
    found: Any = value
    if isinstance(value, torch.Tensor):
        found = value.to(device)
    elif isinstance(value, dict):
        found = {name: _moved(one, device) for name, one in value.items()}
    elif is_dataclass(value):
        found = replace(value, **{one.name: _moved(getattr(value, one.name), device) for one in fields(value)})  # type: ignore[type-var]
    return cast("_T", found)


@dataclass(frozen=True)
class Prefix:
    """Extra keys and values.

    Attributes:
        states: ``[2 * layers, heads, length, head size]``: keys and values of layer 0, of layer 1, and so on.
    """

    states: torch.Tensor

    @property
    def length(self) -> int:
        return self.states.shape[2]


@dataclass(frozen=True)
class Prompt:
    """Extra input embeddings, ``[length, hidden]``."""

    embeddings: torch.Tensor

    @property
    def length(self) -> int:
        return self.embeddings.shape[0]


@dataclass(frozen=True)
class AdapterDeltas:
    """The trained state of one adapter, whatever its method.

    Attributes:
        sites: module path in the transformers model of the adapter's task -> what happens there.
        prefix: extra keys and values, where there are some.
        prompt: extra input embeddings, where there are some.
    """

    sites: dict[str, SiteDelta]
    prefix: Prefix | None = None
    prompt: Prompt | None = None

    def kinds(self) -> list[str]:
        """Names of the kinds that occur."""
        found = {kind for site in self.sites.values() for kind in site.kinds()}
        found |= {name for name in ("prefix", "prompt") if getattr(self, name) is not None}
        return sorted(found)
