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
from typing import TYPE_CHECKING, Any

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, Target
from pefttools.sites import output_size

from ..own import OwnMethod, train_heads
from .config import CHILD, BottleneckConfig
from .sites import linear_sizes, parallel_sites, residual_sites, serial_sites

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta


class BottleneckAdapters(OwnMethod[BottleneckConfig]):
    """Adds bottleneck adapters to any transformers encoder or decoder."""

    name = "bottleneck"
    summary = "bottleneck adapters: houlsby, pfeiffer, parallel or feed-forward"
    paper = "https://arxiv.org/abs/1902.00751"
    config = BottleneckConfig
    capabilities = Capabilities(deltas=True)
    learning_rate = 2e-3
    #: that of a decoder to its encoder, which had no adapter
    added_later = r"\.(EncDecAttention|encoder_attn)\."
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
