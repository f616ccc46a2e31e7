"""Bottleneck adapters, in four placements.

    houlsby       after attention and after the feed-forward sub-layer   https://arxiv.org/abs/1902.00751
    pfeiffer      after the feed-forward's sum with the residual         https://arxiv.org/abs/2005.00247
    parallel      beside the feed-forward sub-layer                      https://arxiv.org/abs/2110.04366
    feed-forward  houlsby without its half after attention

With ``f(h) = scale * up(act(down(h)))``, ``x`` the input of a sub-layer, ``y`` its output and ``LN`` the norm that
ends a post-norm block:

    houlsby, feed-forward   y + f(y), before the residual is added
    parallel                y + f(x)
    pfeiffer                LN(y + x + f(LN(y + x)));  in pre-norm blocks, which end in no norm,  y + x + f(y + x)
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import output_size

from ..own import OwnMethod, train_heads
from .sites import linear_sizes, parallel_sites, residual_sites, serial_sites

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta

#: name of the network below its site
CHILD = "bottleneck"
#: what was published with a placement, where it is not the field's default
_PUBLISHED: dict[str, dict[str, Any]] = {
    "pfeiffer": {"activation": "relu"},
    "parallel": {"activation": "relu", "scale": 4.0},
}


class BottleneckConfig(MethodConfig):
    """Options of bottleneck adapters."""

    placement: Literal["houlsby", "pfeiffer", "parallel", "feed-forward"] = Field(
        "houlsby", description="where the adapters stand in a block"
    )
    size: int = Field(24, ge=1, description="width of the bottleneck")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        "gelu", description="non-linearity in the bottleneck; relu by default for pfeiffer and parallel"
    )
    scale: float = Field(1.0, gt=0, description="factor on the adapter's output; 4 by default for parallel")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the bottleneck during training")
    targets: list[str] = Field(
        default_factory=list,
        description="modules after whose output an adapter stands, for pfeiffer the norms that end a block; empty: "
        "found from the architecture",
    )
    inputs: list[str] = Field(
        default_factory=list,
        description="parallel only: modules whose input the adapters read, one for each of targets",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        # In the options themselves, so that an artifact says what it was trained with.
        if not isinstance(given, dict):
            return given
        placement = given.get("placement")
        return {**(_PUBLISHED.get(placement, {}) if isinstance(placement, str) else {}), **given}


class BottleneckAdapters(OwnMethod[BottleneckConfig]):
    """Adds bottleneck adapters to any transformers encoder or decoder."""

    name = "bottleneck"
    summary = "bottleneck adapters: houlsby, pfeiffer, parallel or feed-forward"
    paper = "https://arxiv.org/abs/1902.00751"
    config = BottleneckConfig
    capabilities = Capabilities(deltas=True)
    learning_rate = 2e-3
    neutral = {r"\.down\.(weight|bias)$": None, r"\.up\.(weight|bias)$": 0.0}  # noqa: RUF012

    @classmethod
    def upgraded(cls, options: dict[str, Any], schema: str) -> dict[str, Any]:
        if schema != "1.0" or options.get("placement") != "pfeiffer":
            return options
        warnings.warn(
            "this adapter was trained with what 0.1 called the placement 'pfeiffer' and is now called 'feed-forward'; "
            "it is loaded as that",
            stacklevel=4,
        )
        return {**options, "placement": "feed-forward"}

    def wrap(self, model: nn.Module, config: BottleneckConfig, target: Target) -> nn.Module:
        from . import module

        if config.inputs and config.placement != "parallel":
            raise TargetError("bottleneck.inputs is for the placement 'parallel' only")
        if config.placement == "parallel":
            for read, write in parallel_sites(model, config):
                inputs, outputs = linear_sizes(model, read, write)
                module.attach_parallel(model.get_submodule(read), model.get_submodule(write), inputs, outputs, config)
        elif config.placement == "pfeiffer":
            for residual in residual_sites(model, config):
                attach = module.attach_around_norm if residual.norm else module.attach_serial
                attach(model.get_submodule(residual.name), residual.size, config)
        else:
            for name in serial_sites(model, config):
                site = model.get_submodule(name)
                module.attach_serial(site, output_size(site), config)
        train_heads(model, target)
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: BottleneckConfig) -> dict[str, SiteDelta]:
        from pefttools.deltas import Bottleneck, NormBottleneck, SiteDelta

        readers = dict(pair[::-1] for pair in parallel_sites(model, config)) if config.placement == "parallel" else {}
        norms: set[str] = set()
        if config.placement == "pfeiffer":
            norms = {residual.name for residual in residual_sites(model, config) if residual.norm}
        names = [name.removesuffix(".down.weight") for name in state if name.endswith(".down.weight")]
        found = {}
        for name in names:
            site = name.removesuffix(f".{CHILD}")
            kind = NormBottleneck if site in norms else Bottleneck
            found[site] = SiteDelta(
                kind(
                    down=state[f"{name}.down.weight"],
                    down_bias=state[f"{name}.down.bias"],
                    up=state[f"{name}.up.weight"] * config.scale,
                    up_bias=state[f"{name}.up.bias"] * config.scale,
                    activation=config.activation,
                    of_site=readers.get(site),
                )
            )
        return found
