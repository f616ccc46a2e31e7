"""Exporting an adapter as a plain PEFT LoRA, for vLLM and other servers, and weighted sums of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pefttools.deltas.kinds import AdapterDeltas, LowRank, SiteDelta
from pefttools.deltas.low_rank import combine, low_rank
from pefttools.deltas.merge import bias_change, weight_change
from pefttools.deltas.weights import dense_weight
from pefttools.errors import ConfigError
from pefttools.files import canonical_json

if TYPE_CHECKING:
    from torch import nn

#: kinds that add up as they are
_ADDITIVE = {"low_rank", "bias", "dense", "replace"}


@dataclass(frozen=True)
class PlainLora:
    """Low-rank updates of one rank, and biases.

    Attributes:
        sites: module path -> update.
        biases: module path -> change of the bias ``[out]``, where there is one.
        heads: module path -> parameters that stand in place of the module's own.
        error: Frobenius norm of all that was left out, relative to that of all changes.
    """

    sites: dict[str, LowRank]
    biases: dict[str, torch.Tensor]
    heads: dict[str, dict[str, torch.Tensor]]
    error: float

    @property
    def rank(self) -> int:
        """Rank that all sites are padded to."""
        return max((update.rank for update in self.sites.values()), default=1)


def as_lora(deltas: AdapterDeltas, model: nn.Module, rank: int | None) -> PlainLora:
    """Deltas as low-rank updates of linear layers.

    Args:
        deltas: of an adapter.
        model: the transformers model of its task.
        rank: most rank of a site; None: as much as it takes, where the adapter is low rank itself.

    Raises:
        ConfigError: prefixes, prompts, bottlenecks, biases of norms: no changes of linear layers.
    """
    from pefttools.sites import is_linear

    for kind in ("prefix", "prompt"):
        if getattr(deltas, kind) is not None:
            raise ConfigError(f"a {kind} is no change of weights: it can't be said as a LoRA")
    sites: dict[str, LowRank] = {}
    biases: dict[str, torch.Tensor] = {}
    heads: dict[str, dict[str, torch.Tensor]] = {}
    lost = whole = 0.0
    for name, delta in deltas.sites.items():
        module = model.get_submodule(name)
        if delta.replace is not None:
            heads[name] = delta.replace
            continue
        if delta.bottleneck is not None:
            raise ConfigError(f"a bottleneck adapter (at {name}) is no change of weights: it can't be said as a LoRA")
        if not is_linear(module):
            raise ConfigError(f"the adapter changes {name}, which is no linear layer: it can't be said as a LoRA")
        weight = dense_weight(module).float().cpu()
        own_bias = getattr(module, "bias", None)
        bias = torch.zeros(weight.shape[0]) if own_bias is None else own_bias.detach().float().cpu()
        change = bias_change(delta, bias)
        if bool(change.any()):
            biases[name] = change
        if delta.kinds() == ["bias"]:
            sites[name] = LowRank(torch.zeros(1, weight.shape[1]), torch.zeros(weight.shape[0], 1))
            continue
        found = low_rank(delta, weight, rank)
        sites[name] = found.update
        lost, whole = lost + found.lost**2, whole + found.norm**2
    return PlainLora(sites, biases, heads, (lost / whole) ** 0.5 if whole else 0.0)


def additive(deltas: AdapterDeltas, model: nn.Module) -> AdapterDeltas:
    """The same adapter in kinds that can be added: factors on weights become dense changes.

    Raises:
        ConfigError: bottlenecks, prefixes, prompts, which are no changes of weights.
    """
    sites = {}
    for name, delta in deltas.sites.items():
        if set(delta.kinds()) <= _ADDITIVE:
            sites[name] = delta
            continue
        if delta.bottleneck is not None:
            raise ConfigError(f"a bottleneck adapter (at {name}) is no change of weights: it can't be added")
        module = model.get_submodule(name)
        weight = dense_weight(module).float().cpu()
        bias = getattr(module, "bias", None)
        sites[name] = SiteDelta(
            dense=weight_change(delta, weight),
            bias=delta.bias if bias is None else bias_change(delta, bias.detach().float().cpu()),
        )
    return AdapterDeltas(sites, deltas.prefix, deltas.prompt)


def weighted(adapters: Sequence[AdapterDeltas], weights: Sequence[float]) -> AdapterDeltas:
    """The weighted sum of what adapters do at each site.

    Low-rank updates are put side by side, which is exact; biases and dense changes are added. Task heads are averaged
    with the same weights, scaled to sum to one.

    Raises:
        ConfigError: kinds that can't be added: factors, bottlenecks, prefixes, prompts; heads of other shapes.
    """
    for adapter in adapters:
        others = set(adapter.kinds()) - _ADDITIVE
        if others:
            raise ConfigError(f"{', '.join(sorted(others))}: these can't be added up")
    total = sum(weights)
    sites: dict[str, SiteDelta] = {}
    for name in dict.fromkeys(site for adapter in adapters for site in adapter.sites):
        parts = [(a.sites[name], w) for a, w in zip(adapters, weights, strict=True) if name in a.sites]
        updates = [(delta.low_rank, w) for delta, w in parts if delta.low_rank is not None]
        sites[name] = SiteDelta(
            low_rank=combine(updates) if updates else None,
            bias=_sum([(delta.bias, w) for delta, w in parts]),
            dense=_sum([(delta.dense, w) for delta, w in parts]),
            replace=_average(name, [(delta.replace, w / total) for delta, w in parts], len(adapters)),
        )
    return AdapterDeltas(sites)


def write_peft(lora: PlainLora, folder: Path, *, base_id: str, task_type: str) -> None:
    """Write PEFT's own files: ``adapter_config.json`` and ``adapter_model.safetensors``, float32."""
    import peft
    from safetensors.torch import save_file

    rank = lora.rank
    state: dict[str, torch.Tensor] = {}
    for name, update in lora.sites.items():
        out, inputs = update.b.shape[0], update.a.shape[1]
        a, b = torch.zeros(rank, inputs), torch.zeros(out, rank)
        a[: update.rank], b[:, : update.rank] = update.a.cpu(), update.b.cpu()
        state[f"base_model.model.{name}.lora_A.weight"] = a
        state[f"base_model.model.{name}.lora_B.weight"] = b
        if lora.biases:
            state[f"base_model.model.{name}.lora_B.bias"] = lora.biases.get(name, torch.zeros(out)).contiguous()
    for name, parameters in lora.heads.items():
        for parameter, value in parameters.items():
            state[f"base_model.model.{name}.{parameter}"] = value.cpu().contiguous()
    # alpha = rank: the scale stands in B already.
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(lora.sites),
        lora_bias=bool(lora.biases),
        task_type=task_type,
        modules_to_save=sorted(lora.heads) or None,
        inference_mode=True,
    )
    options: dict[str, Any] = dict(config.to_dict())
    options["target_modules"] = sorted(lora.sites)
    options["base_model_name_or_path"] = base_id
    options["peft_type"] = "LORA"
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(canonical_json(options), encoding="utf-8")


def _sum(parts: Sequence[tuple[torch.Tensor | None, float]]) -> torch.Tensor | None:
    given = [tensor * weight for tensor, weight in parts if tensor is not None]
    return torch.stack(given).sum(0) if given else None


def _average(
    name: str, parts: Sequence[tuple[dict[str, torch.Tensor] | None, float]], adapters: int
) -> dict[str, torch.Tensor] | None:
    given = [(state, weight) for state, weight in parts if state is not None]
    if not given:
        return None
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state, _ in given]
    if len(given) != adapters or any(shape != shapes[0] for shape in shapes):
        raise ConfigError(f"the task heads at {name} are not alike: they can't be averaged")
    return {key: torch.stack([state[key] * weight for state, weight in given]).sum(0) for key in shapes[0]}
