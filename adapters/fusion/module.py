"""The attention between fused adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..bottleneck.module import Addition, Bottleneck, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bottleneck.sites import Place
    from .config import FusionOptions

#: initial off-diagonal entries of the values
_OFF_DIAGONAL = 1e-6


class Fusion(Addition):
    """``sum over n of s_n V a_n(x)`` with ``s = softmax over n of (Q x + q) . (K a_n(x) + k)``, in float32 parameters.

    The adapters ``a_n`` are frozen. ``V`` starts as the identity, so that training starts from a weighted mean of them.

    Args:
        adapters: what each adds, from ``x [..., in]`` to ``[..., out]``.
        inputs: size of ``x``.
        outputs: size of what is added.
        values: whether there are values; if False, ``V`` is the identity.
        device: where it is.
    """

    def __init__(
        self, adapters: Iterable[Bottleneck], inputs: int, outputs: int, values: bool, device: torch.device
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters).requires_grad_(False)
        self.query = nn.Linear(inputs, outputs, device=device, dtype=torch.float32)
        self.key = nn.Linear(outputs, outputs, device=device, dtype=torch.float32)
        self.value = nn.Linear(outputs, outputs, bias=False, device=device, dtype=torch.float32) if values else None
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if self.value is not None:
            with torch.no_grad():
                self.value.weight.fill_(_OFF_DIAGONAL).fill_diagonal_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.query.weight.dtype)
        added = torch.stack([adapter(x) for adapter in self.adapters], dim=-2)
        scores = (self.query(x).unsqueeze(-2) * self.key(added)).sum(-1, keepdim=True)
        values = added if self.value is None else self.value(added)
        fused: torch.Tensor = (scores.softmax(-2) * values).sum(-2)
        return fused

    def off_identity(self) -> torch.Tensor | None:
        """Squared distance of the values' matrix from the identity; None if there is none."""
        if self.value is None:
            return None
        weight = self.value.weight
        return (weight - torch.eye(len(weight), device=weight.device, dtype=weight.dtype)).square().sum()


def make(place: Place, config: FusionOptions, device: torch.device) -> Fusion:
    """The fusion at a place, with randomly initialized adapters."""
    adapters = []
    for one in config.fused:
        # They are not trained here, so they have no dropout.
        adapter = plain(place.inputs, place.outputs, one.model_copy(update={"dropout": 0.0}), device)
        nn.init.normal_(adapter.get_parameter("up.weight"), std=one.size**-0.5)
        adapters.append(adapter)
    return Fusion(adapters, place.inputs, place.outputs, config.values, device)


def fusions(modules: Iterable[nn.Module]) -> Iterator[Fusion]:
    """The fusions among modules."""
    return (module for module in modules if isinstance(module, Fusion))


def copy_adapters(
    model: nn.Module, states: Sequence[dict[str, torch.Tensor]], sites: Iterable[str], child: str
) -> None:
    """Copy saved adapters' weights into the fusions of a model.

    Args:
        model: with the fusions.
        states: the weights of each adapter, by ``site``, a dot, and the name in the network.
        sites: names of the modules with a fusion.
        child: name of the fusion there.
    """
    for site in sites:
        fusion = model.get_submodule(f"{site}.{child}")
        assert isinstance(fusion, Fusion)
        for adapter, state in zip(fusion.adapters, states, strict=True):
            own = {name.removeprefix(f"{site}."): t for name, t in state.items() if name.startswith(f"{site}.")}
            adapter.load_state_dict(own)
