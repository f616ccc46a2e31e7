"""Several bottlenecks at one place; attention decides how much of each is added."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pefttools.deltas.bottleneck import AfterSite, Bottleneck, activate

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class FusedBottlenecks(AfterSite):
    """``y += sum of s_n value a_n(y)``, with weights ``s_n`` from attention.

    ``s`` is the softmax over n of ``(query y + query_bias) . (key a_n(y) + key_bias)``.

    Attributes:
        parts: the bottlenecks ``a_n``, of the same sizes at both ends.
        query: ``[out, in]``.
        query_bias: ``[out]``.
        key: ``[out, out]``.
        key_bias: ``[out]``.
        value: ``[out, out]``; None for the identity.
        of_site: site whose input is read; None for this site's own output.
    """

    name: ClassVar[str] = "fused_bottlenecks"
    stacked: ClassVar[bool] = False

    parts: dict[str, Bottleneck]
    query: torch.Tensor
    query_bias: torch.Tensor
    key: torch.Tensor
    key_bias: torch.Tensor
    value: torch.Tensor | None
    of_site: str | None = None

    def norm(self) -> float:
        return math.hypot(*(part.norm() for part in self.parts.values()))

    def added(self, x: torch.Tensor) -> torch.Tensor:
        """What they add for ``x[..., in]``: ``[..., out]``."""
        x = x.to(self.query.dtype)
        each = torch.stack([_through(part, x) for part in self.parts.values()], dim=-2)
        query = functional.linear(x, self.query, self.query_bias).unsqueeze(-2)
        scores = (query * functional.linear(each, self.key, self.key_bias)).sum(-1, keepdim=True)
        values = each if self.value is None else functional.linear(each, self.value)
        return (scores.softmax(-2) * values).sum(-2)

    def alone(self, module: nn.Module) -> Change:
        own = self.to(next(module.parameters()).device)
        return lambda x, y: y + own.added(x).to(y.dtype)


@dataclass(frozen=True)
class NormFusedBottlenecks(FusedBottlenecks):
    """At a norm: what is made of its output is added to its input, which the norm then takes again."""

    name: ClassVar[str] = "norm_fused_bottlenecks"
    reads_output: ClassVar[bool] = False

    def alone(self, module: nn.Module) -> Change:
        own = self.to(next(module.parameters()).device)

        def again(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # Bypassing the module's hooks, of which this is one.
            found: torch.Tensor = module.forward(x + own.added(y).to(x.dtype))
            return found

        return again


def _through(part: Bottleneck, x: torch.Tensor) -> torch.Tensor:
    inner = activate(functional.linear(x, part.down, part.down_bias), part.activation)
    return functional.linear(inner, part.up, part.up_bias)
