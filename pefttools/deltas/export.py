"""Exporting an adapter as a plain PEFT LoRA, for vLLM and other servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pefttools.deltas.adapter import AdapterDeltas
from pefttools.deltas.approximate import as_low_rank
from pefttools.deltas.low_rank import LowRank
from pefttools.deltas.merge import bias_change
from pefttools.deltas.replace import Replace
from pefttools.deltas.weights import dense_weight
from pefttools.errors import ConfigError
from pefttools.files import canonical_json

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PlainLora:
    """Low-rank updates of one rank, and biases.

    Attributes:
        sites: module path -> update.
        biases: module path -> change of the bias ``[out]``, if there is one.
        heads: module path -> parameters that replace the module's own.
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
        deltas: deltas of an adapter.
        model: the transformers model of its task.
        rank: maximum rank of a site; None for as high as needed, if the adapter is low rank itself.

    Raises:
        ConfigError: something is not a change of linear layers, e.g. a prefix, or biases of norms.
    """
    from pefttools.sites import is_linear

    for tokens in deltas.virtual:
        raise ConfigError(f"a {tokens.name} is not a change of weights: it cannot be expressed as LoRA")
    sites: dict[str, LowRank] = {}
    biases: dict[str, torch.Tensor] = {}
    heads: dict[str, dict[str, torch.Tensor]] = {}
    lost = whole = 0.0
    for name, delta in deltas.sites.items():
        module = model.get_submodule(name)
        if (replaced := delta.get(Replace)) is not None:
            heads[name] = replaced.parameters
            continue
        for part in delta:
            if not part.linear:
                kind = part.name.replace("_", " ")
                raise ConfigError(
                    f"what the adapter does at {name} ({kind}) is not a change of weights: it cannot be expressed as "
                    "LoRA"
                )
        if not is_linear(module):
            raise ConfigError(
                f"the adapter changes {name}, which is not a linear layer: it cannot be expressed as LoRA"
            )
        weight = dense_weight(module).float().cpu()
        own_bias = getattr(module, "bias", None)
        bias = torch.zeros(weight.shape[0]) if own_bias is None else own_bias.detach().float().cpu()
        change = bias_change(delta, bias)
        if bool(change.any()):
            biases[name] = change
        if not any(part.changes_weight for part in delta):
            sites[name] = LowRank(torch.zeros(1, weight.shape[1]), torch.zeros(weight.shape[0], 1))
            continue
        found = as_low_rank(delta, weight, rank)
        sites[name] = found.update
        lost, whole = lost + found.lost**2, whole + found.norm**2
    return PlainLora(sites, biases, heads, (lost / whole) ** 0.5 if whole else 0.0)


def check_read_as_written(lora: PlainLora, model: nn.Module) -> None:
    """Refuse what PEFT's own loader would put elsewhere.

    PEFT takes layers whose names end like those of experts in transformers 4 for such experts, even if they belong to a
    dense block or are shared by all tokens.

    Raises:
        ConfigError: there are such layers; names them.
    """
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = peft.LoraConfig(target_modules=sorted(lora.sites))
    try:
        convert_peft_config_for_transformers(config, model, None)
        moved = set(lora.sites) - set(config.target_modules or ())
    except ValueError:  # some of the layers that it would fuse are missing
        moved = set(lora.sites)
    if moved:
        raise ConfigError(
            f"PEFT would take {', '.join(sorted(moved)[:3])} and others like them for routed experts, and put the "
            "update there",
            hint="Leave dense and shared feed-forward layers out of the method's targets, or merge the adapter.",
        )


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
    # alpha = rank: the scale is already in B.
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(lora.sites),
        lora_bias=bool(lora.biases),
        task_type=task_type or None,
        modules_to_save=sorted(lora.heads) or None,
        inference_mode=True,
    )
    options: dict[str, Any] = dict(config.to_dict())
    options["target_modules"] = sorted(lora.sites)
    options["base_model_name_or_path"] = base_id
    options["peft_type"] = "LORA"
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(canonical_json(options), encoding="utf-8")
