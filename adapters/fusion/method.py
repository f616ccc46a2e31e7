"""AdapterFusion: saved bottleneck adapters, combined at every place by a trained attention.

Pfeiffer, Kamath, Rueckle, Cho, Gurevych: AdapterFusion: Non-Destructive Task Composition for Transfer Learning,
https://arxiv.org/abs/2005.00247

    a_n(x)    what adapter n adds, of N that were trained before and stay frozen
    s         softmax over n of  (Q x + q) . (K a_n(x) + k)
    added     sum over n of  s_n V a_n(x),  with  regularization * |V - 1|^2  added to the loss

An artifact contains the adapters too: it does not need the artifacts that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pefttools.errors import ArtifactError
from pefttools.methods import Capabilities, Target

from ..bottleneck.config import CHILD as ADAPTER
from ..bottleneck.sites import places
from ..own import WEIGHTS, OwnMethod, train_heads
from .config import FusionOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.bases import Base
    from pefttools.deltas import SiteDelta

#: name of a fusion below its site
CHILD = "fusion"


class AdapterFusion(OwnMethod[FusionOptions]):
    """A trained combination of saved bottleneck adapters."""

    name = "fusion"
    summary = "saved bottleneck adapters, combined by a trained attention"
    paper = "https://arxiv.org/abs/2005.00247"
    config = FusionOptions
    capabilities = Capabilities(deltas=True)
    learning_rate = 5e-4

    def check_base(self, config: FusionOptions, base: Base) -> None:
        from pefttools.artifact.load import check_base
        from pefttools.artifact.manifest import read_manifest

        for folder in config.adapters:
            check_base(read_manifest(folder), base)

    def wrap(self, model: nn.Module, config: FusionOptions, target: Target) -> nn.Module:
        from ..bottleneck.module import attach
        from .module import copy_adapters, make

        found = places(model, config.fused[0], self.name)
        for place in found:
            attach(model, place, partial(make, place, config), CHILD)
        if config.adapters:
            copy_adapters(model, list(_states(config)), [place.name for place in found], CHILD)
        train_heads(model, target)
        return model

    def stored(self, model: nn.Module) -> dict[str, nn.Parameter]:
        from .module import fusions

        also = {id(parameter) for fusion in fusions(model.modules()) for parameter in fusion.parameters()}
        return {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in also}

    def penalty(self, model: nn.Module, config: FusionOptions) -> Tensor | None:
        from .module import fusions

        found = [off for fusion in fusions(model.modules()) if (off := fusion.off_identity()) is not None]
        total: Tensor | None = sum(found[1:], found[0]) * config.regularization if found else None
        return total

    def decays_to(self, model: nn.Module, config: FusionOptions, name: str) -> float | None:
        # The penalty pulls the values towards the identity.
        return None if name.endswith(f".{CHILD}.value.weight") else 0.0

    def trained(self, config: FusionOptions) -> FusionOptions:
        return config.model_copy(update={"adapters": []})

    def describe(self, config: FusionOptions) -> dict[str, Any]:
        return config.model_dump(mode="json", exclude={"adapters"})  # paths of the machine that it was trained on

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: FusionOptions) -> dict[str, SiteDelta]:
        from pefttools.deltas import Bottleneck, FusedBottlenecks, NormFusedBottlenecks, SiteDelta

        found = {}
        for place in places(model, config.fused[0], self.name):
            prefix = f"{place.name}.{CHILD}."
            own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            kind = NormFusedBottlenecks if place.norm else FusedBottlenecks
            found[place.name] = SiteDelta(
                kind(
                    parts={
                        str(number): Bottleneck(
                            down=own[f"adapters.{number}.down.weight"],
                            down_bias=own[f"adapters.{number}.down.bias"],
                            up=own[f"adapters.{number}.up.weight"] * one.scale,
                            up_bias=own[f"adapters.{number}.up.bias"] * one.scale,
                            activation=one.activation,
                        )
                        for number, one in enumerate(config.fused)
                    },
                    query=own["query.weight"],
                    query_bias=own["query.bias"],
                    key=own["key.weight"],
                    key_bias=own["key.bias"],
                    value=own.get("value.weight"),
                    of_site=place.reads,
                )
            )
        return found


def _states(config: FusionOptions) -> Iterator[dict[str, Tensor]]:
    """The weights of each adapter's networks, by site and name in the network."""
    from safetensors.torch import load_file

    from pefttools.artifact.reading import hold_weights

    for folder, one in zip(config.adapters, config.fused, strict=True):
        with hold_weights(folder) as held:
            if held.digest != one.digest:
                raise ArtifactError(f"{folder} was replaced since its options were read")
            state = load_file(held.folder / WEIGHTS)
        yield {name.replace(f".{ADAPTER}.", "."): t for name, t in state.items() if f".{ADAPTER}." in name}
