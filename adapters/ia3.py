"""IA3, by PEFT: learned factors on keys, values and the feed-forward sub-layer's inner activations.

Liu et al.: Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, https://arxiv.org/abs/2205.05638
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import block_parts, ends, match_modules, modules_at

from .peft_bridge import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class IA3Config(MethodConfig):
    """Options of IA3."""

    targets: list[str] = Field(
        default_factory=list, description="modules to scale; empty: keys, values and the feed-forward output"
    )
    feed_forward: list[str] = Field(
        default_factory=list, description="those of targets whose input is scaled instead of their output"
    )


class IA3(PeftMethod[IA3Config]):
    """Learned factors, all one at the start."""

    name = "ia3"
    summary = "learned scaling factors on keys, values and feed-forward"
    paper = "https://arxiv.org/abs/2205.05638"
    config = IA3Config
    capabilities = Capabilities(effect="weights", deltas=True)
    learning_rate = 1e-2
    neutral = {r"\.ia3_l$": 1.0}  # noqa: RUF012

    def decays_to(self, model: nn.Module, config: IA3Config, name: str) -> float | None:
        # A factor of one has no effect; a factor of zero switches the keys and values off.
        return 1.0 if ".ia3_l." in name else 0.0

    def peft_config(self, model: nn.Module, config: IA3Config, target: Target) -> Any:
        import peft

        if config.targets:
            targets = match_modules(model, config.targets, option="ia3.targets")
            feed_forward = match_modules(model, config.feed_forward, option="ia3.feed_forward")
            outside = sorted(set(feed_forward) - set(targets))
            if outside:
                raise TargetError(f"ia3.feed_forward names {outside[0]!r}, which ia3.targets does not match")
        elif config.feed_forward:
            raise TargetError("ia3.feed_forward without ia3.targets", hint="Set both, or neither.")
        else:
            parts = block_parts(model)
            feed_forward = modules_at(model, parts.feed_forward_output)
            targets = [name for part in parts.all_keys_values for name in modules_at(model, part)] + feed_forward
        return peft.IA3Config(
            target_modules=ends(targets, model),
            feedforward_modules=ends(feed_forward, model),
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas, InputScale, OutputScale, SiteDelta

        sites = {}
        for name, scale in state.items():
            # PEFT stores factors on inputs as [1, in] and those on outputs as [out, 1].
            on_input = scale.shape[0] == 1
            factor = scale.flatten()
            site = name.removesuffix(".ia3_l")
            sites[site] = SiteDelta(InputScale(factor) if on_input else OutputScale(factor))
        return AdapterDeltas(sites)
