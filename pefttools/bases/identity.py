"""What, besides its weights, determines a base's answers: the configuration that its layers read, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pefttools.errors import BaseModelError

#: fields of configurations that change no answer: where the model came from, what the variant or the task overrides,
#: what only acts in training
_IDLE = {
    "_commit_hash", "_model_name_or_path", "_name_or_path", "architectures", "auto_map", "dtype", "finetuning_task",
    "gradient_checkpointing", "id2label", "initializer_factor", "initializer_range", "label2id", "num_labels",
    "output_attentions", "output_hidden_states", "pretraining_tp", "problem_type", "return_dict",
    "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "use_cache",
    "_from_model_config",
}  # fmt: skip
_IN_TRAINING = ("dropout", "pdrop", "layerdrop")
#: likewise, of a tokenizer's own configuration
_OF_NO_TEXT = {
    "auto_map", "backend", "is_local", "local_files_only", "name_or_path", "special_tokens_map_file",
    "tokenizer_file", "transformers_version",
}  # fmt: skip
#: state that a tokenizer's last caller left in its file
_LEFT_BEHIND = {"truncation", "padding"}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
#: read only if there is no tokenizer.json
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def function_fields(folder: Path) -> dict[str, Any]:
    """The fields of ``config.json`` that change a model's answers, and of ``generation_config.json`` under that name.

    Raises:
        BaseModelError: they can't be read.
    """
    fields = _without_idle(_json(folder / "config.json"))
    generation = folder / "generation_config.json"
    if generation.is_file():
        fields["generation_config"] = _without_idle(_json(generation))
    return fields


def unlike_fields(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which two configurations differ; a missing field has its default."""
    if mine == theirs:
        return []
    mine, theirs = _with_defaults(mine), _with_defaults(theirs)
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over what turns texts into tokens and back: vocabulary, rules, special tokens and chat template."""
    parts: dict[str, Any] = {}
    whole = folder / "tokenizer.json"
    if whole.is_file():
        content = _json(whole)
        parts["tokenizer"] = {name: value for name, value in content.items() if name not in _LEFT_BEHIND}
    else:
        for name in _VOCABULARIES:
            if (folder / name).is_file():
                parts[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            parts[name] = {key: value for key, value in _json(folder / name).items() if key not in _OF_NO_TEXT}
    for name in _TEMPLATES:
        if (folder / name).is_file():
            parts[name] = (folder / name).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _without_idle(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_idle(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name not in _IDLE and not any(word in name for word in _IN_TRAINING)
    }


def _with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same as this version of transformers reads it, if it knows the model."""
    from transformers import AutoConfig

    from pefttools.bases.sizes import OF_CONFIGURATIONS

    own = {name: value for name, value in fields.items() if name not in ("model_type", "generation_config")}
    try:
        read = AutoConfig.for_model(fields["model_type"], **own).to_dict()
    except OF_CONFIGURATIONS:  # a model of another library, or what another version wrote: taken as it is
        read = own
    # Via JSON, in which a tuple is a list.
    known: dict[str, Any] = json.loads(json.dumps(_without_idle(read), default=str))
    generation = {name: value for name, value in fields.get("generation_config", {}).items() if value is not None}
    return known | {"generation_config": generation, "model_type": fields.get("model_type")}


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return dict(content)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} can't be read: {error}") from error
