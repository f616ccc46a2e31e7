"""Translating a foreign PEFT configuration to our options, and what can't be represented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pefttools.errors import ConfigError

#: tensors of an adapter: name in the transformers model -> shape
Shapes = Mapping[str, tuple[int, ...]]

#: PEFT's task type -> task
TASKS = {"CAUSAL_LM": "causal-lm", "SEQ_CLS": "sequence-classification"}

#: options of LoRA that change what it computes in a way that our deltas can't express
_LORA_BEYOND = {
    "layer_replication": "layers that occur twice",
    "trainable_token_indices": "trained embeddings of single tokens",
    "target_parameters": "updates of parameters that belong to no linear layer",
    "alora_invocation_tokens": "activation by an invocation (aLoRA)",
    "arrow_config": "routing among several adapters (Arrow)",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "megatron_config": "Megatron's layers",
    "ensure_weight_tying": "updates of tied embeddings",
}
#: initializations of LoRA that leave the base's weights unchanged
_LORA_PLAIN_STARTS = (None, True, False, "true", "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Meaning:
    """A PEFT configuration in our terms.

    Attributes:
        method: name and options of the method.
        virtual: number of virtual tokens.
        details: what the options can't express.
    """

    method: dict[str, Any]
    virtual: int = 0
    details: dict[str, Any] = field(default_factory=dict)


def meaning_of(config: Mapping[str, Any], shapes: Shapes, where: str) -> Meaning:
    """The method and options that load a PEFT adapter.

    Args:
        config: content of ``adapter_config.json``.
        shapes: the adapter's tensors.
        where: the folder, for messages.

    Raises:
        ConfigError: a type of adapter or an option that can't be represented; the error names it.
    """
    kind = config.get("peft_type")
    if kind not in _READERS:
        raise ConfigError(
            f"{where}: adapters of PEFT's type {kind!r} can't be imported",
            hint=f"Supported types: {', '.join(_READERS)}.",
        )
    _refuse_newer_options(config, where)
    return _READERS[kind](config, shapes, where)


def _lora(config: Mapping[str, Any], shapes: Shapes, where: str) -> Meaning:
    for option, what in _LORA_BEYOND.items():
        if config.get(option):
            raise ConfigError(f"{where}: {what} can't be imported (option {option} of its LoRA)")
    start = config.get("init_lora_weights", True)
    if start not in _LORA_PLAIN_STARTS:
        raise ConfigError(
            f"{where}: init_lora_weights={start!r} means an update of a changed base, not of the base itself",
            hint="Save it as a plain LoRA first: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )
    for name, shape in shapes.items():
        if "lora_embedding_" in name:
            raise ConfigError(f"{where}: updates of embeddings can't be imported ({name})")
        if ".lora_A." in name and len(shape) != 2:
            raise ConfigError(f"{where}: updates of convolutions can't be imported ({name})")
    sites = _sites(shapes, ".lora_A.weight")
    if not sites:
        raise ConfigError(f"{where} contains no LoRA weights")
    details = {
        name: config[name]
        for name in ("rank_pattern", "alpha_pattern", "bias", "layers_to_transform", "modules_to_save")
        if config.get(name) and config[name] != "none"
    }
    options = {
        "r": config.get("r", 8),
        "alpha": config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout", 0.0),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "targets": sites,
    }
    return Meaning({"name": "lora", **options}, details=details)


def _ia3(config: Mapping[str, Any], shapes: Shapes, where: str) -> Meaning:
    sites = _sites(shapes, ".ia3_l")
    if not sites:
        raise ConfigError(f"{where} contains no IA3 weights")
    inputs = [site for site in sites if shapes[f"{site}.ia3_l"][0] == 1]
    return Meaning({"name": "ia3", "targets": sites, "feed_forward": inputs})


def _prefix(config: Mapping[str, Any], shapes: Shapes, where: str) -> Meaning:
    length = _virtual_tokens(config, shapes, where)
    return Meaning({"name": "prefix", "length": length}, virtual=length)


def _prompt(config: Mapping[str, Any], shapes: Shapes, where: str) -> Meaning:
    length = _virtual_tokens(config, shapes, where)
    # PEFT stores the output of P-tuning's encoder, which is plain embeddings.
    details = {"peft_type": config["peft_type"]} if config["peft_type"] != "PROMPT_TUNING" else {}
    return Meaning({"name": "prompt", "length": length, "start": "random"}, virtual=length, details=details)


_READERS: dict[str, Callable[[Mapping[str, Any], Shapes, str], Meaning]] = {
    "LORA": _lora,
    "IA3": _ia3,
    "PREFIX_TUNING": _prefix,
    "PROMPT_TUNING": _prompt,
    "P_TUNING": _prompt,
}
#: types whose tensors are named after the wrapped model, without a level in between
OF_VIRTUAL_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")


def _virtual_tokens(config: Mapping[str, Any], shapes: Shapes, where: str) -> int:
    if config.get("task_type") is None:
        raise ConfigError(f"{where}: PEFT itself can't use virtual tokens without a task_type in adapter_config.json")
    shape = shapes.get("prompt_embeddings")
    if shape is None:
        raise ConfigError(f"{where} contains no virtual tokens (the tensor prompt_embeddings)")
    if len(shape) != 2 or shape[0] != config.get("num_virtual_tokens"):
        raise ConfigError(
            f"{where}: prompt_embeddings has the shape {shape}, but adapter_config.json says "
            f"{config.get('num_virtual_tokens')} virtual tokens"
        )
    if config.get("num_transformer_submodules") not in (None, 1):
        raise ConfigError(f"{where}: virtual tokens of encoder-decoder models can't be imported")
    return int(shape[0])


def _refuse_newer_options(config: Mapping[str, Any], where: str) -> None:
    """PEFT only warns about options that it does not know; they may change what the adapter computes."""
    import dataclasses

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {one.name for one in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]])}
    unknown = sorted(name for name, value in config.items() if name not in known and value)
    if unknown:
        raise ConfigError(
            f"{where}: the installed PEFT does not know the option {unknown[0]}={config[unknown[0]]!r}",
            hint="Install a newer PEFT, or remove the option if it changes nothing.",
        )


def _sites(shapes: Shapes, end: str) -> list[str]:
    return sorted(name.removesuffix(end) for name in shapes if name.endswith(end))
