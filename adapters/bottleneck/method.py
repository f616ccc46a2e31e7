"""Bottleneck adapters, in three placements.

    houlsby   after attention and after the feed-forward sub-layer   https://arxiv.org/abs/1902.00751
    pfeiffer  after the feed-forward sub-layer only                  https://arxiv.org/abs/2005.00247
    parallel  beside the feed-forward sub-layer                      https://arxiv.org/abs/2110.04366

Serial (houlsby, pfeiffer), before the residual is added::

    y ──┬─────────────────────────────┬──► y + scale * up(act(down(y)))
        └─► down ─► activation ─► up ─┘

Parallel, from the sub-layer's input ``x`` to its output ``y``::

    x ──┬─► feed-forward ─► y ────────┬──► y + scale * up(act(down(x)))
        └─► down ─► activation ─► up ─┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import block_parts, input_size, match_modules, modules_at, output_size

from ..own import OwnMethod, train_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta

#: name of the network below its site
CHILD = "bottleneck"


class BottleneckConfig(MethodConfig):
    """Options of bottleneck adapters."""

    placement: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "houlsby", description="where the adapters stand in a block"
    )
    size: int = Field(24, ge=1, description="width of the bottleneck")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("gelu", description="non-linearity in the bottleneck")
    scale: float = Field(1.0, gt=0, description="factor on the adapter's output")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the bottleneck during training")
    targets: list[str] = Field(
        default_factory=list,
        description="modules after whose output an adapter stands; empty: found from the architecture",
    )
    inputs: list[str] = Field(
        default_factory=list,
        description="parallel only: modules whose input the adapters read, one for each of targets",
    )


class BottleneckAdapters(OwnMethod[BottleneckConfig]):
    """Adds bottleneck adapters to any transformers encoder or decoder."""

    name = "bottleneck"
    summary = "bottleneck adapters: houlsby, pfeiffer or parallel"
    paper = "https://arxiv.org/abs/1902.00751"
    config = BottleneckConfig
    capabilities = Capabilities(mergeable=False, mixed_batch=True)
    learning_rate = 2e-3
    neutral = {r"\.down\.(weight|bias)$": None, r"\.up\.(weight|bias)$": 0.0}  # noqa: RUF012

    def wrap(self, model: nn.Module, config: BottleneckConfig, target: Target) -> nn.Module:
        from .module import attach_parallel, attach_serial

        if _parallel(config):
            for read, write in _parallel_sites(model, config):
                reader, writer = model.get_submodule(read), model.get_submodule(write)
                attach_parallel(reader, writer, input_size(reader), output_size(writer), config)
        else:
            if config.inputs:
                raise TargetError("bottleneck.inputs is for the placement 'parallel' only")
            for name in _serial_sites(model, config):
                site = model.get_submodule(name)
                attach_serial(site, output_size(site), config)
        train_heads(model, target)
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: BottleneckConfig) -> dict[str, SiteDelta]:
        from pefttools.deltas import Bottleneck, SiteDelta

        readers = {write: read for read, write in _parallel_sites(model, config)} if _parallel(config) else {}
        names = [name.removesuffix(".down.weight") for name in state if name.endswith(".down.weight")]
        found = {}
        for name in names:
            site = name.removesuffix(f".{CHILD}")
            found[site] = SiteDelta(
                bottleneck=Bottleneck(
                    down=state[f"{name}.down.weight"],
                    down_bias=state[f"{name}.down.bias"],
                    up=state[f"{name}.up.weight"] * config.scale,
                    up_bias=state[f"{name}.up.bias"] * config.scale,
                    activation=config.activation,
                    reads=readers.get(site),
                )
            )
        return found


def _parallel(config: BottleneckConfig) -> bool:
    return config.placement == "parallel"


def _serial_sites(model: nn.Module, config: BottleneckConfig) -> list[str]:
    if config.targets:
        return match_modules(model, config.targets, option="bottleneck.targets")
    parts = block_parts(model)
    names = modules_at(model, parts.feed_forward_output)
    if config.placement == "houlsby":
        names += modules_at(model, parts.attention_output)
    return names


def _parallel_sites(model: nn.Module, config: BottleneckConfig) -> list[tuple[str, str]]:
    if bool(config.targets) != bool(config.inputs):
        raise TargetError("bottleneck.targets and bottleneck.inputs go together for the placement 'parallel'")
    if config.targets:
        reads = match_modules(model, config.inputs, option="bottleneck.inputs")
        writes = match_modules(model, config.targets, option="bottleneck.targets")
    else:
        parts = block_parts(model)
        reads, writes = (
            modules_at(model, parts.feed_forward_input[0]),
            modules_at(model, parts.feed_forward_output),
        )
    if len(reads) != len(writes):
        raise TargetError(
            f"bottleneck: {len(reads)} inputs for {len(writes)} targets",
            hint=f"inputs: {', '.join(reads[:4])}...; targets: {', '.join(writes[:4])}...",
        )
    return list(zip(reads, writes, strict=True))
