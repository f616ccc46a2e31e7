"""Every registered method holds the contract, on every kind of base and variant, or refuses by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.adapters.peft_weights import PeftWeights
from pefttools.bases import variants
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import methods
from pefttools.recipe import choose_method, choose_task
from pefttools.testing import check_method
from pefttools.testing.rows import encoded_rows
from pefttools.tuned import TunedModel
from tests.methods import AVAILABLE, OTHERS, choice_of, daily
from tests.pefttools.tasks.samples import SAMPLES

LABELS = ["a", "b", "c"]
#: options that change the structure, beside the defaults
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"r": 4, "rslora": True},
        {"r": 4, "dora": True},
        {"r": 4, "pissa": True},
        {"r": 4, "pissa": True, "rslora": True},
        {"r": 4, "start": "gaussian"},
        {"r": 4, "start": "orthogonal"},
        {"r": 4, "start": "olora"},
        {"r": 4, "start": "eva"},
        {"r": 4, "start": "corda"},
        {"r": 4, "start": "lora-ga"},
        {"r": 4, "start": "loftq"},
        {"r": 4, "start": "mica"},
        {"r": 4, "frozen_a": True},
    ],
    "compacter": [{"size": 8, "placement": one} for one in ("pfeiffer", "parallel", "feed-forward")],
    "reft": [{"kind": "noreft", "r": 4}, {"kind": "direft", "r": 4, "layers": [1]}],
    "partial": [{"targets": ["*.0.*"]}],
    "bottleneck": [{"size": 8, "placement": one} for one in ("pfeiffer", "parallel", "feed-forward")],
}
FAMILIES = [("bert", "mean"), ("bert", "model"), ("llama", "lm"), ("gpt2", "lm")]
PEFT_METHODS = {name for name in methods if methods.get(name).library == "peft"}


def _choices() -> Iterator[dict[str, Any]]:
    for name in AVAILABLE:
        for options in ({}, *OPTIONS.get(name, [])):
            yield choice_of(name, **options)


def _id(choice: dict[str, Any]) -> str:
    return "-".join(str(value) if key == "name" else f"{key}={value}" for key, value in choice.items())


def _task(head: str) -> dict[str, Any]:
    return {"name": "causal-lm"} if head == "lm" else {"name": "sequence-classification", "head": head}


def _cases() -> Iterator[Any]:
    """Defaults and options in float32 by two kinds of base, and some on other variants and bases: the rest is slow."""
    for choice in _choices():
        for family, head in FAMILIES:
            for variant in variants:
                name, plain = choice["name"], choice == choice_of(choice["name"])
                often = (family, head) in (("bert", "mean"), ("llama", "lm"))
                every_day = often and variant == "float32" and (plain or family == "bert")
                if plain:
                    # The formats that a base may have meet every method on a decoder in four bits, and one in all.
                    every_day |= (family, variant) == ("llama", "nf4") or (often and name == "lora")
                    every_day |= variant == "float32" and name in ("lora", "prefix", "bottleneck")
                # Every fourth one, by turns on an encoder and on a decoder: `pefttools probe --slice` tries each.
                if name in OTHERS:
                    turn, rest = divmod(OTHERS.index(name), 4)
                    every_day = often and variant == "float32" and not rest and (family == "bert") == (turn % 2 == 0)
                marks = () if every_day else pytest.mark.slow
                yield pytest.param(
                    choice, family, head, variant, id=f"{_id(choice)}-{family}-{head}-{variant}", marks=marks
                )


@pytest.mark.parametrize(("choice", "family", "head", "variant"), _cases())
def test_the_contract(
    choice: dict[str, Any], family: str, head: str, variant: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(f"tiny_{family}")
    given: dict[str, Any] = {"base": base, "folder": tmp_path, "task": _task(head), "variant": variant}
    if (why := _why_not(choice["name"], family, head, variant)) is not None and not _not_on(choice["name"], variant):
        with pytest.raises(PeftToolsError, match=why):
            check_method(choice, **given)
        return
    model = check_method(choice, **given)
    if model is not None and model.capabilities.mergeable:
        assert (tmp_path / "merged").is_dir() == (choice["name"] not in UNMERGED.get(family, ()))
    if model is not None and choice["name"] in PEFT_METHODS and variant == "float32":
        _check_plain_peft(tmp_path / "artifact", base, head, model)


#: adapters that a family's layers have no place for, mergeable as they are elsewhere
UNMERGED = {"llama": ("beft",)}


def _why_not(name: str, family: str, head: str, variant: str) -> str | None:
    """Why a method can't be put on a family, with a head and in a number format; None: it can."""
    if name == "trainable_tokens" and head == "model":
        return "can't train the model's own head"
    if family == "gpt2" and variant in ("torchao-int8", "hqq"):
        return "finds no linear layer in a"
    if name == "bitfit" and family == "llama":
        return "no bias terms"
    if name == "adaption_prompt" and family == "bert":
        return "does not support its attention"
    plugin = methods.get(name)
    if family == "gpt2" and isinstance(plugin, type) and issubclass(plugin, PeftWeights) and not plugin.conv1d:
        return "transposed linear layers of GPT-2"
    return None


def _check_plain_peft(artifact: Path, base: str, head: str, trained: TunedModel) -> None:
    """PEFT alone, on the plain transformers model, gives the same."""
    import peft
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    batch = trained.spec.task.collate(encoded_rows(trained, None), trained.tokenizer)
    batch.pop("labels")
    kind: Any = {"mean": AutoModel, "lm": AutoModelForCausalLM, "model": AutoModelForSequenceClassification}[head]
    options = {"num_labels": len(LABELS)} if head == "model" else {}
    plain = peft.PeftModel.from_pretrained(kind.from_pretrained(base, **options), artifact).eval()
    with torch.no_grad():
        expected, found = trained.transformer(**batch), plain(**batch)
    name = "last_hidden_state" if head == "mean" else "logits"
    torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)


def _not_on(name: str, variant: str) -> bool:
    """Whether a method refuses a variant."""
    plugin, config = choose_method(choice_of(name))
    try:
        plugin.check(config, variants.get(variant)(), choose_task("sequence-classification"))
    except ConfigError:
        return True
    return False


def _not_of(name: str, modality: str) -> bool:
    """Whether a method refuses models that read something else than texts."""
    can = methods.get(name).capabilities
    return can.effect == "virtual_tokens" or (can.modalities is not None and modality not in can.modalities)


#: of whose way into Whisper's encoder the most can go wrong
ON_SOUNDS = ("lora", "bottleneck", "full")


@pytest.mark.parametrize("variant", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", daily(ON_SOUNDS))
def test_the_contract_on_sounds(name: str, variant: str, tiny_whisper: str, tmp_path: Path) -> None:
    options, rows = SAMPLES["audio-classification"]
    model = check_method(
        choice_of(name), base=tiny_whisper, folder=tmp_path, task={"name": "audio-classification", **options},
        rows=rows[:6], labels=["l0", "l1", "l2"], variant=variant,
    )  # fmt: skip
    assert (model is None) == (_not_of(name, "audio") or _not_on(name, variant))


#: of encoders and decoders
OFTEN = {("lora", "t5", "float32"), ("prompt", "bart", "float32"), ("prefix", "t5", "float32"), ("head", "t5", "nf4")}


@pytest.mark.parametrize("variant", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", daily(("full", "head", "lora", "bottleneck")))
def test_the_contract_on_pictures(name: str, variant: str, tiny_vit: str, tmp_path: Path) -> None:
    _, rows = SAMPLES["image-classification"]
    model = check_method(
        choice_of(name), base=tiny_vit, folder=tmp_path, task={"name": "image-classification", "head": "mean"},
        rows=rows[:6], labels=["l0", "l1", "l2"], variant=variant,
    )  # fmt: skip
    assert (model is None) == (_not_of(name, "image") or _not_on(name, variant))


@pytest.mark.parametrize("variant", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["zero-shot-image-classification", "image-text-retrieval"])
@pytest.mark.parametrize("name", daily(("lora", "full")))
def test_the_contract_on_pictures_and_texts(name: str, task: str, variant: str, tiny_clip: str, tmp_path: Path) -> None:
    options, rows = SAMPLES[task]
    model = check_method(
        choice_of(name), base=tiny_clip, folder=tmp_path, task={"name": task, **options}, rows=rows[:6],
        labels=["l0", "l1", "l2"], variant=variant,
    )  # fmt: skip
    assert (model is None) == (_not_of(name, "image-text") or _not_on(name, variant))


@pytest.mark.parametrize(
    ("name", "family", "variant"),
    [
        pytest.param(name, family, variant, marks=() if (name, family, variant) in OFTEN else pytest.mark.slow)
        for name in AVAILABLE
        for family in ("t5", "bart")
        for variant in ("float32", "nf4")
    ],
)
def test_the_contract_of_what_writes_texts_apart(
    name: str, family: str, variant: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(f"tiny_{family}")
    given: dict[str, Any] = {"base": base, "folder": tmp_path, "variant": variant, "rows": SAMPLES["seq2seq-lm"][1][:5],
                             "task": {"name": "seq2seq-lm", "max_length": 64, "max_target_length": 64}}  # fmt: skip
    if (name, family) == ("bitfit", "t5"):
        with pytest.raises(PeftToolsError, match="no bias terms"):
            check_method(choice_of(name), **given)
        return
    can = methods.get(name).capabilities
    assert (check_method(choice_of(name), **given) is None) == (can.trains == "head" or _not_on(name, variant))


def _of_windows(head: str) -> dict[str, Any]:
    options, rows = SAMPLES["question-answering"]
    return {"rows": rows[:3], "labels": [], "task": {"name": "question-answering", **options, "head": head}}


@pytest.mark.parametrize("variant", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", ["auto", "model"])
@pytest.mark.parametrize("name", daily(("lora",)))
def test_the_contract_on_question_answering(name: str, head: str, variant: str, tiny_bert: str, tmp_path: Path) -> None:
    can = methods.get(name).capabilities
    given = {"base": tiny_bert, "folder": tmp_path, "variant": variant, **_of_windows(head)}
    if not can.all_inputs:
        with pytest.raises(ConfigError, match="drops token types"):
            check_method(choice_of(name), **given)
        return
    if (why := _why_not(name, "bert", head, variant)) is not None and not _not_on(name, variant):
        with pytest.raises(ConfigError, match=why):
            check_method(choice_of(name), **given)
        return
    model = check_method(choice_of(name), **given)
    assert (model is None) == _not_on(name, variant)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["auto", "model"])
@pytest.mark.parametrize("name", [name for name in AVAILABLE if not methods.get(name).capabilities.all_inputs])
def test_question_answering_where_a_base_knows_no_token_types(
    name: str, head: str, tiny_bert: str, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "made").mkdir()
    assert check_method(choice_of(name), base=str(base), folder=tmp_path / "made", **_of_windows(head)) is not None


@pytest.mark.parametrize("name", ["full", "head", "untuned"])
def test_what_trains_no_adapter_is_counted_so(name: str, tiny_bert: str, tmp_path: Path) -> None:
    model = pefttools.wrap(tiny_bert, name, task=_task("mean"), labels=LABELS, precision="float32")
    manifest = pefttools.save(model, tmp_path / "artifact")
    head = 64 * 3 + 3
    wanted = {"full": sum(p.numel() for p in model.parameters()), "head": head, "untuned": 0}
    assert manifest.parameters["trainable"] == wanted[name]
