"""BitFit: only the bias terms are trained.

Zaken, Ravfogel, Goldberg: BitFit, https://arxiv.org/abs/2106.10199

A bias ``b`` becomes ``b + delta`` with a trained ``delta`` that starts at zero::

    x ──► W x + (b + delta) ──► y

The delta, not the bias, is trained, so that the base stays unchanged whatever format its weights have. Anything that
reads the module's bias gets the sum: its own forward, or a fused kernel that is given the bias, such as Mamba's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.errors import ConfigError, TargetError
from pefttools.methods import Capabilities, MethodConfig, Target
from pefttools.sites import match_modules

from .own import OwnMethod, train_heads

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.deltas import SiteDelta

#: what is appended to the name of a bias
SUFFIX = "_delta"
#: ``bias``, or XLNet's ``r_w_bias``, Mamba's ``dt_bias``, the ``gate_up_proj_bias`` of experts
_BIAS = re.compile(r"(?:.*_)?bias")
#: these only choose which experts a token goes to, or act on the segments of a text (XLNet's ``r_s_bias``): biases that
#: never get a gradient are not trained
_IDLE = re.compile(r".*(?:correction|expert)_bias|r_s_bias")


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
    capabilities = Capabilities(effect="weights", deltas=True)
    learning_rate = 3e-3
    neutral = {r"bias_delta$": 0.0}  # noqa: RUF012
    added_later = r"_bias_delta$"

    def wrap(self, model: nn.Module, config: BitFitConfig, target: Target) -> nn.Module:
        chosen = match_modules(model, config.targets, option="bitfit.targets", linear_only=False)
        if not config.targets:
            chosen = [name for name, _ in model.named_modules()]
        modules = [model.get_submodule(name) for name in chosen if not target.in_head(name)]
        # A bias that two modules share is read in the layer itself, not in the module that contains the layer.
        modules.sort(key=lambda module: next(module.children(), None) is not None)
        seen: set[int] = set()
        for module in modules:
            names = [name for name in _biases(module) if id(module.get_parameter(name)) not in seen]
            seen |= {id(module.get_parameter(name)) for name in names}
            if names:
                _tune(module, names)
        if not seen:
            raise TargetError(
                "bitfit: the chosen modules have no bias terms",
                hint="Models such as Llama have none; use lora or bottleneck there.",
            )
        train_heads(model, target)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        import torch

        for module in model.modules():
            deltas = [name for name in module._parameters if name.endswith(SUFFIX)]
            if not deltas:
                continue
            module.__class__ = type(module).__mro__[1]
            for name in deltas:
                delta = module._parameters.pop(name)
                assert delta is not None
                with torch.no_grad():
                    module.get_parameter(name.removesuffix(SUFFIX)).add_(delta)
        return model

    def site_deltas(
        self, state: dict[str, torch.Tensor], model: nn.Module, config: BitFitConfig
    ) -> dict[str, SiteDelta]:
        from pefttools.deltas import Bias, SiteDelta

        found = {}
        for full, delta in state.items():
            site, _, name = full.rpartition(".")
            if name != f"bias{SUFFIX}" or not _adds_its_bias(model, site):
                raise ConfigError(
                    f"bitfit: {full.removesuffix(SUFFIX)} is not simply added to a layer's output, so the adapter has "
                    "no delta form: it can't be pooled, exported or composed",
                    hint="Serve it alone, merge it, or train with bitfit.targets that leave this module out.",
                )
            found[site] = SiteDelta(Bias(delta))
        return found


def _biases(module: nn.Module) -> Iterator[str]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_floating_point() and _BIAS.fullmatch(name) and not _IDLE.fullmatch(name):
            yield name


def _tune(module: nn.Module, names: list[str]) -> None:
    """Give a module a delta per bias, and make its biases return their sums."""
    import torch
    from torch import nn

    for name in names:
        bias = module.get_parameter(name)
        delta = nn.Parameter(torch.zeros(bias.shape, dtype=torch.float32, device=bias.device))
        module.register_parameter(name + SUFFIX, delta)
    kind = type(module)
    # A separate class, since properties belong to classes. The base's parameters keep their places and names.
    sums = {name: _sum(name) for name in names}
    module.__class__ = type(kind.__name__, (kind,), {**sums, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _sum(name: str) -> property:
    def read(module: nn.Module) -> torch.Tensor:
        bias = module._parameters[name]
        delta = module._parameters[name + SUFFIX]
        assert bias is not None
        assert delta is not None
        return (bias + delta).to(bias.dtype)

    return property(read)


def _adds_its_bias(model: nn.Module, site: str) -> bool:
    """Whether a bias of this module is simply added to the output of its forward."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from pefttools.deltas.bias import CONVOLUTIONS

    if not isinstance(model.get_submodule(site), (nn.Linear, Conv1D, nn.LayerNorm, *CONVOLUTIONS)):
        return False
    # If the parent module reads the bias directly, for a fused kernel, no forward runs whose output could be changed.
    parent, _, child = site.rpartition(".")
    return not _reads(type(model.get_submodule(parent)), child, "bias")


def _reads(kind: type[nn.Module], child: str, attribute: str) -> bool:
    """Whether a method of a class reads ``self.child.attribute``."""
    import dis
    import inspect
    from itertools import pairwise

    from torch import nn

    owners = kind.__mro__[: kind.__mro__.index(nn.Module)]
    for method in (method for owner in owners for method in vars(owner).values() if inspect.isfunction(method)):
        steps = pairwise(dis.get_instructions(inspect.unwrap(method)))
        if any((a.argval, b.argval, b.opname) == (child, attribute, "LOAD_ATTR") for a, b in steps):
            return True
    return False
