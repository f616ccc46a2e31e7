"""Fine-tuning of chosen modules: the last blocks, or any that are named, with all their weights.

In between training only a head and full fine-tuning. The chosen modules are stored in full.

    block 1 ... block n-1          frozen
    block n, head                  trained
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import match_modules

from .own import OwnMethod, train_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta

_BLOCK = re.compile(r"(?P<stack>.*?)\.(?P<number>\d+)")


class PartialOptions(MethodConfig):
    """Options of fine-tuning of chosen modules."""

    last: int = Field(1, ge=1, description="how many of the last blocks are trained, if no targets are given")
    targets: list[str] = Field(
        default_factory=list,
        description="modules to train in full: names, ends of names or globs; empty: the last blocks",
    )


class PartialFineTuning(OwnMethod[PartialOptions]):
    """Trains chosen modules in full."""

    name = "partial"
    summary = "all weights of chosen modules, by default of the last block"
    config = PartialOptions
    capabilities = Capabilities(trains="base", effect="weights", variants=frozenset({"float32"}), deltas=True)
    learning_rate = 2e-4

    def wrap(self, model: nn.Module, config: PartialOptions, target: Target) -> nn.Module:
        for name in chosen_modules(model, config):
            model.get_submodule(name).requires_grad_(True)
        train_heads(model, target)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: PartialOptions) -> dict[str, SiteDelta]:
        from pefttools.deltas import Replace, SiteDelta

        sites: dict[str, dict[str, Tensor]] = {}
        for full, value in state.items():
            site, _, name = full.rpartition(".")
            sites.setdefault(site, {})[name] = value
        return {site: SiteDelta(Replace(parameters)) for site, parameters in sites.items()}


def chosen_modules(model: nn.Module, config: PartialOptions) -> list[str]:
    """Names of the modules that are trained.

    Raises:
        TargetError: a pattern that matches nothing; a model without blocks.
    """
    if config.targets:
        return match_modules(model, config.targets, option="partial.targets", linear_only=False)
    stacks: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        match = _BLOCK.fullmatch(name)
        if match:
            stacks.setdefault(match["stack"], []).append(name)
    sizes = {stack: sum(map(partial(_size, model), names)) for stack, names in stacks.items()}
    if not sizes or not max(sizes.values()):
        raise TargetError("partial: no blocks can be identified in this model", hint="Set partial.targets.")
    # For an encoder-decoder model both stacks; for a mixture of experts the stack of blocks, not that of its experts.
    largest = max(sizes.values())
    inner = {stack for stack in sizes if any(stack.startswith(f"{other}.") for other in sizes)}
    chosen = [stack for stack, size in sizes.items() if size * 3 > largest and stack not in inner]
    return [name for stack in chosen for name in stacks[stack][-config.last :]]


def _size(model: nn.Module, name: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(name).parameters())
