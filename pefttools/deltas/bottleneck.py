"""Bottleneck adapters: two linear layers with a non-linearity between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch.nn import functional

from pefttools.deltas.kind import At, DeltaKind, Family, padded
from pefttools.deltas.low_rank import LowRank, as_tokens

Activation = Literal["relu", "gelu", "silu", "tanh", "identity"]


class AfterSite(DeltaKind):
    """A kind that is added to a module's output, computed from that or from another site's input.

    Attributes:
        of_site: site whose input is read; None for this site's own output.
    """

    linear: ClassVar[bool] = False
    reads_output: ClassVar[bool] = True

    of_site: str | None

    @property
    def reads(self) -> str | None:
        return self.of_site

    def reading(self, site: str) -> Self:
        return replace(self, of_site=site)  # type: ignore[type-var]


@dataclass(frozen=True)
class Bottleneck(AfterSite):
    """``y += up act(down y + down_bias) + up_bias``; a scale is folded into `up` and `up_bias`.

    Attributes:
        down: ``[size, in]``.
        down_bias: ``[size]``.
        up: ``[out, size]``.
        up_bias: ``[out]``.
        activation: name of the activation.
        of_site: site whose input is read; None for this site's own output.
    """

    name: ClassVar[str] = "bottleneck"

    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    activation: Activation
    of_site: str | None = None

    @property
    def size(self) -> int:
        return self.down.shape[0]

    def norm(self) -> float:
        return LowRank(self.down, self.up).norm()

    def family(self) -> Family:
        return Family(self.name, padded(self.size), self.activation)

    def slot(self, size: int) -> dict[str, tuple[int, ...]]:
        inputs, outputs = self.down.shape[1], self.up.shape[0]
        return {"down": (inputs, size), "down_bias": (1, size), "up": (size, outputs), "up_bias": (1, outputs)}

    def values(self) -> dict[str, torch.Tensor]:
        return {
            "down": self.down.T, "down_bias": self.down_bias[None], "up": self.up.T, "up_bias": self.up_bias[None],
        }  # fmt: skip

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        return y + _added(x, weights, at.form).to(y.dtype)


@dataclass(frozen=True)
class NormBottleneck(Bottleneck):
    """At a norm: what the bottleneck makes of its output is added to its input, which the norm then takes again.

    ``y = norm(x + up act(down norm(x) + down_bias) + up_bias)``.
    """

    name: ClassVar[str] = "norm_bottleneck"
    reads_output: ClassVar[bool] = False

    @classmethod
    def apply(cls, x: torch.Tensor, y: torch.Tensor, weights: Mapping[str, torch.Tensor], at: At) -> torch.Tensor:
        # Bypassing the module's hooks, of which this is one.
        again: torch.Tensor = at.module.forward(x + _added(y, weights, at.form).to(x.dtype))
        own = (at.slots > 0).view(-1, *(1,) * (y.dim() - 1))
        # Rows without one keep what they have, even if it is another adapter's.
        return torch.where(own, again, y)


def activate(x: torch.Tensor, name: str | None) -> torch.Tensor:
    """A bottleneck's non-linearity, by name. Each gives zero for zero, so that a bottleneck can be padded."""
    if name == "relu":
        return functional.relu(x)
    if name == "gelu":
        return functional.gelu(x)
    if name == "silu":
        return functional.silu(x)
    return x if name == "identity" else torch.tanh(x)


def _added(x: torch.Tensor, weights: Mapping[str, torch.Tensor], activation: str | None) -> torch.Tensor:
    """What the bottlenecks make of ``x[rows, ..., in]``: ``[rows, ..., out]``."""
    if x.dim() != 3:
        added = _added(as_tokens(x), weights, activation)
        return added.view(*x.shape[:-1], added.shape[-1])
    inner = activate(torch.baddbmm(weights["down_bias"], x.to(weights["down"].dtype), weights["down"]), activation)
    return torch.baddbmm(weights["up_bias"], inner, weights["up"])
