"""Adapters that PEFT itself made and saved, and what PEFT itself answers with them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

CLASSES = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LABELS = ["arrived", "lost", "rate"]


@dataclass(frozen=True)
class Kind:
    """One kind of PEFT adapter: how it is made, and of which base (name of a fixture)."""

    base: str
    task: str
    make: Callable[..., peft.PeftConfig]
    options: dict[str, Any] = field(default_factory=dict)
    pickled: bool = False


KINDS: dict[str, Kind] = {
    "lora": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {"r": 4, "target_modules": ["query", "value"]}),
    "rank and alpha patterns": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {
        "r": 4, "lora_alpha": 6, "target_modules": ["query", "value", "intermediate.dense"],
        "rank_pattern": {"query": 2, r"layer\.1\.attention\.self\.value": 7},
        "alpha_pattern": {"query": 20, r"encoder\.layer\.0\.intermediate\.dense": 1},
    }),
    "rslora by a regular expression": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {
        "r": 5, "lora_alpha": 7, "use_rslora": True, "rank_pattern": {"key": 3},
        "target_modules": r".*layer\.[01]\.attention\.self\.(query|key)",
    }),
    "dora": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {"r": 3, "target_modules": ["query"], "use_dora": True}),
    "all biases": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {"r": 3, "target_modules": ["query"], "bias": "all"}),
    "biases of lora": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {
        "r": 3, "target_modules": ["query", "value"], "bias": "lora_only",
    }),
    "biases of the updates": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {
        "r": 3, "target_modules": ["query", "intermediate.dense"], "lora_bias": True,
    }),
    "some layers and the pooler": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {
        "r": 3, "target_modules": ["query"], "layers_to_transform": [1], "modules_to_save": ["pooler"],
    }),
    "pickled": Kind("tiny_bert", "SEQ_CLS", peft.LoraConfig, {"target_modules": "all-linear"}, pickled=True),
    "ia3": Kind("tiny_bert", "SEQ_CLS", peft.IA3Config),
    "prefix": Kind("tiny_bert", "SEQ_CLS", peft.PrefixTuningConfig, {"num_virtual_tokens": 4}),
    "prompt": Kind("tiny_bert", "SEQ_CLS", peft.PromptTuningConfig, {"num_virtual_tokens": 3}),
    "decoder's classifier": Kind("tiny_llama", "SEQ_CLS", peft.LoraConfig, {"target_modules": ["q_proj", "up_proj"]}),
    "causal, with head and norms": Kind("tiny_llama", "CAUSAL_LM", peft.LoraConfig, {
        "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"],
    }),
    "causal ia3": Kind("tiny_llama", "CAUSAL_LM", peft.IA3Config),
    "causal prefix, projected": Kind("tiny_llama", "CAUSAL_LM", peft.PrefixTuningConfig, {
        "num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 8,
    }),
    "causal p-tuning": Kind("tiny_llama", "CAUSAL_LM", peft.PromptEncoderConfig, {
        "num_virtual_tokens": 4, "encoder_hidden_size": 8,
    }),
    "transposed layers": Kind("tiny_gpt2", "CAUSAL_LM", peft.LoraConfig, {
        "r": 4, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True,
    }),
}  # fmt: skip


def plain(base: str, task: str, outputs: int = len(LABELS)) -> Any:
    """The transformers model that PEFT is given, frozen at fixed random heads."""
    torch.manual_seed(0)
    options = {"num_labels": outputs, "pad_token_id": 0} if task == "SEQ_CLS" else {}
    return CLASSES[task].from_pretrained(base, **options)


def make(kind: Kind, base: str, folder: Path, outputs: int = len(LABELS), embeddings: bool = False) -> Path:
    """Save a PEFT adapter in which every trained number differs from its start."""
    model = peft.get_peft_model(plain(base, kind.task, outputs), kind.make(task_type=kind.task, **kind.options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(str(folder), safe_serialization=not kind.pickled, save_embedding_layers=embeddings)
    return folder


def by_peft(kind: Kind, base: str, folder: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits by PEFT's own loader on the plain transformers model."""
    model = peft.PeftModel.from_pretrained(plain(base, kind.task), str(folder)).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**batch).logits
    return logits[:, -batch["input_ids"].shape[1] :] if kind.task == "CAUSAL_LM" else logits


def texts(file: str, count: int) -> list[str]:
    """Real rows."""
    with Path(file).open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)][:count]


def copy(source: Path | str, target: Path) -> Path:
    """A folder to be changed."""
    return Path(shutil.copytree(source, target))


def change_config(folder: Path, **changes: object) -> None:
    """Give ``adapter_config.json`` other values."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))
