"""Bottleneck adapters, in four placements.

    houlsby       after attention and after the feed-forward sub-layer   https://arxiv.org/abs/1902.00751
    pfeiffer      after the feed-forward's sum with the residual         https://arxiv.org/abs/2005.00247
    parallel      in parallel to the feed-forward sub-layer              https://arxiv.org/abs/2110.04366
    feed-forward  houlsby without its half after attention

With ``f(h) = scale * up(act(down(h)))``, ``x`` the input of a sub-layer, ``y`` its output and ``LN`` the norm that
ends a post-norm block:

    houlsby, feed-forward   y + f(y), before the residual is added
    parallel                y + f(x)
    pfeiffer                LN(y + x + f(LN(y + x)));  in pre-norm blocks, which end in no norm,  y + x + f(y + x)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pefttools.errors import ArtifactError
from pefttools.methods import Capabilities, Target

from ..own import OwnMethod, train_heads
from .config import CHILD, BottleneckConfig
from .sites import places

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta

    from .module import Bottleneck


ConfigT = TypeVar("ConfigT", bound=BottleneckConfig)


class Bottlenecks(OwnMethod[ConfigT]):
    """Adds networks that are as wide as a layer at both ends and narrow in the middle."""

    capabilities = Capabilities(deltas=True)

    def networks(self, config: ConfigT) -> Callable[[int, int, torch.device], Bottleneck]:
        """The factory of a model's networks: from the sizes at both ends, and the device."""
        from .module import plain

        return lambda inputs, outputs, device: plain(inputs, outputs, config, device)

    def wrap(self, model: nn.Module, config: ConfigT, target: Target) -> nn.Module:
        from .module import attach

        make = self.networks(config)
        for place in places(model, config, self.name):
            attach(model, place, partial(make, place.inputs, place.outputs))
        train_heads(model, target)
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: ConfigT) -> dict[str, SiteDelta]:
        from pefttools.deltas import Bottleneck, NormBottleneck, SiteDelta

        found, known = {}, set[str]()
        for place in places(model, config, self.name):
            name, kind = f"{place.name}.{CHILD}", NormBottleneck if place.norm else Bottleneck
            own = {full for full in state if full.startswith(f"{name}.")}
            if not own:  # see `added_later`
                continue
            known |= own
            found[place.name] = SiteDelta(
                kind(
                    down=self.weight(state, f"{name}.down"),
                    down_bias=state[f"{name}.down.bias"],
                    up=self.weight(state, f"{name}.up") * config.scale,
                    up_bias=state[f"{name}.up.bias"] * config.scale,
                    activation=config.activation,
                    of_site=place.reads,
                )
            )
        if unknown := sorted(state.keys() - known):
            raise ArtifactError(f"the method {self.name!r} does not know the parameter {unknown[0]!r}")
        return found

    def weight(self, state: dict[str, Tensor], name: str) -> Tensor:
        """Weight ``[out, in]`` of a network's layer."""
        return state[f"{name}.weight"]


class BottleneckAdapters(Bottlenecks[BottleneckConfig]):
    """Adds bottleneck adapters to any transformers encoder or decoder."""

    name = "bottleneck"
    summary = "bottleneck adapters: houlsby, pfeiffer, parallel or feed-forward"
    paper = "https://arxiv.org/abs/1902.00751"
    config = BottleneckConfig
    learning_rate = 2e-3
    #: the cross-attention, which had no adapter in earlier versions
    added_later = r"\.(EncDecAttention|encoder_attn)\."
    neutral = {r"\.down\.(weight|bias)$": None, r"\.up\.(weight|bias)$": 0.0}  # noqa: RUF012

    @classmethod
    def upgraded(cls, options: dict[str, Any], schema: str) -> dict[str, Any]:
        if schema != "1.0" or options.get("placement") != "pfeiffer":
            return options
        warnings.warn(
            "this adapter was trained with the placement that 0.1 called 'pfeiffer' and that is now called "
            "'feed-forward'; it is loaded as that",
            stacklevel=4,
        )
        return {**options, "placement": "feed-forward"}
