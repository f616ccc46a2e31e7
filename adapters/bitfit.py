"""BitFit: only the bias terms are trained.

Zaken, Ravfogel, Goldberg: BitFit, https://arxiv.org/abs/2106.10199

A bias ``b`` becomes ``b + delta`` with a trained ``delta`` that starts at zero::

    x ──► W x + b ──(+ delta)──► y

The delta, not the bias, is trained, so that the base stays as it is whatever format its weights have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import match_modules

from .own import OwnMethod, train_heads

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.deltas import SiteDelta

PARAMETER = "bias_delta"


class BitFitConfig(MethodConfig):
    """Options of BitFit."""

    targets: list[str] = Field(
        default_factory=list,
        description="modules whose bias is trained, as names, ends of names or globs; empty: every bias",
    )


class BitFit(OwnMethod[BitFitConfig]):
    """Trains one delta per bias term of the base."""

    name = "bitfit"
    summary = "the bias terms"
    paper = "https://arxiv.org/abs/2106.10199"
    config = BitFitConfig
    capabilities = Capabilities(mergeable=True, mixed_batch=True)
    learning_rate = 3e-3
    neutral = {rf"\.{PARAMETER}$": 0.0}  # noqa: RUF012

    def wrap(self, model: nn.Module, config: BitFitConfig, target: Target) -> nn.Module:
        import torch
        from torch import nn

        chosen = match_modules(model, config.targets, option="bitfit.targets", linear_only=False)
        if not config.targets:
            chosen = [name for name, _ in model.named_modules()]
        heads = tuple(f"{name}." for name in target.head_modules)
        names = [
            name
            for name in chosen
            if isinstance(getattr(model.get_submodule(name), "bias", None), nn.Parameter)
            and not f"{name}.".startswith(heads)
        ]
        if not names:
            raise TargetError(
                "bitfit: the chosen modules have no bias terms",
                hint="Models such as Llama have none; use lora or bottleneck there.",
            )
        for name in names:
            module = model.get_submodule(name)
            bias = module.bias
            assert isinstance(bias, torch.Tensor)
            delta = nn.Parameter(torch.zeros(bias.shape, dtype=torch.float32, device=bias.device))
            module.register_parameter(PARAMETER, delta)
            module.register_forward_hook(_add_delta)
        train_heads(model, target)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        import torch

        for module in model.modules():
            delta = module._parameters.pop(PARAMETER, None)
            if delta is not None:
                with torch.no_grad():
                    module.get_parameter("bias").add_(delta)
                for key, hook in list(module._forward_hooks.items()):
                    if hook is _add_delta:
                        del module._forward_hooks[key]
        return model

    def site_deltas(
        self, state: dict[str, torch.Tensor], model: nn.Module, config: BitFitConfig
    ) -> dict[str, SiteDelta]:
        from pefttools.deltas import SiteDelta

        return {name.removesuffix(f".{PARAMETER}"): SiteDelta(bias=delta) for name, delta in state.items()}


def _add_delta(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return output + module.get_parameter(PARAMETER).to(output.dtype)
