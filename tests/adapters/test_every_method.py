"""What every registered method promises, on every kind of base that it declares."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.bases import variants
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import methods
from pefttools.recipe import choose_method, choose_task
from pefttools.tuned import TunedModel

LABELS = ["a", "b", "c"]
TEXTS = ["a short text", "another text that is a good deal longer than the first", "third"]

#: methods with options: every option that changes the structure is here
CHOICES: list[dict[str, Any]] = [
    {"name": "full"},
    {"name": "head"},
    {"name": "lora", "r": 4},
    {"name": "lora", "r": 4, "rslora": True},
    {"name": "lora", "r": 4, "dora": True},
    {"name": "lora", "r": 4, "pissa": True},
    {"name": "lora", "r": 4, "pissa": True, "rslora": True},
    {"name": "ia3"},
    {"name": "prefix", "length": 5},
    {"name": "prompt", "length": 5},
    {"name": "bottleneck", "size": 8},
    {"name": "bottleneck", "size": 8, "placement": "pfeiffer"},
    {"name": "bottleneck", "size": 8, "placement": "parallel"},
    {"name": "bottleneck", "size": 8, "placement": "feed-forward"},
    {"name": "bitfit"},
    {"name": "untuned"},
]
PEFT_METHODS = ("lora", "ia3", "prefix", "prompt")


def _id(choice: dict[str, Any]) -> str:
    return "-".join(str(value) if key == "name" else f"{key}={value}" for key, value in choice.items())


def _tasks(head: str) -> dict[str, Any]:
    return {"name": "causal-lm"} if head == "lm" else {"name": "sequence-classification", "head": head}


def _batch(model: TunedModel) -> dict[str, torch.Tensor]:
    task = model.spec.task
    if task.name == "causal-lm":
        from pefttools.data import Table

        rows = [{"prompt": text, "completion": "an answer"} for text in TEXTS]
        table = Table("t", rows, {"prompt": "prompt", "completion": "completion"}, range(3))
        examples = task.encode(table, model.tokenizer, [])
        examples = [{k: v for k, v in one.items() if k in ("input_ids", "labels")} for one in examples]
        return task.collate(examples, model.tokenizer)
    examples = [{**model.tokenizer(text), "labels": index} for index, text in enumerate(TEXTS)]
    for one in examples:
        one.pop("token_type_ids", None)
    return task.collate(examples, model.tokenizer)


def _train(model: TunedModel, steps: int = 3) -> None:
    """A few large steps, so that every part of the state is far from its start."""
    batch = _batch(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    model.train()
    for _ in range(steps):
        labels = batch["labels"]
        loss = model.spec.task.loss(model(**batch), labels)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _logits(model: TunedModel) -> torch.Tensor:
    batch = _batch(model)
    mask = batch["attention_mask"].bool()
    logits = model.run_batch(batch).float()
    return logits[mask] if logits.ndim == 3 else logits


def _wrap(base: str, choice: dict[str, Any], head: str, variant: str = "float32") -> TunedModel:
    labels = [] if head == "lm" else LABELS
    return pefttools.wrap(base, choice, task=_tasks(head), labels=labels, variant=variant, precision="float32")


def test_every_registered_method_is_tested_here() -> None:
    ours = {name for name in methods if methods.origin(name).distribution == "pefttools"}
    assert ours == {choice["name"] for choice in CHOICES}


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "int8", "nf4"])
@pytest.mark.parametrize("choice", CHOICES, ids=_id)
@pytest.mark.parametrize(("family", "head"), [("bert", "mean"), ("bert", "model"), ("llama", "lm"), ("gpt2", "lm")])
def test_train_save_load(
    choice: dict[str, Any],
    family: str,
    head: str,
    variant: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    base = request.getfixturevalue(f"tiny_{family}")
    method, config = methods.get(choice["name"])(), None
    config = method.config.model_validate({k: v for k, v in choice.items() if k != "name"})
    task = choose_task(_tasks(head))
    try:
        method.check(config, variants.get(variant)(), task)
    except ConfigError:
        with pytest.raises(ConfigError):
            _wrap(base, choice, head, variant)
        return
    if choice["name"] == "bitfit" and family == "llama":
        with pytest.raises(PeftToolsError, match="no bias terms"):
            _wrap(base, choice, head, variant)
        return
    model = _wrap(base, choice, head, variant)
    before = _logits(model)
    if method.capabilities.trains:
        count = model.count()
        assert method.capabilities.head_only == (head != "lm" and count.trainable == count.head)
        _train(model)
        assert not torch.allclose(before, _logits(model), atol=1e-3), "training has no effect"
    trained = _logits(model)
    manifest = pefttools.save(model, tmp_path / "artifact")
    loaded = pefttools.load(tmp_path / "artifact")
    assert loaded.spec.variant.name == variant
    tolerance = 2e-2 if variant == "bfloat16" else 1e-4
    scale = max(1.0, float(trained.abs().max()))
    torch.testing.assert_close(_logits(loaded), trained, atol=tolerance * scale, rtol=0)
    saved = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert manifest.parameters["trainable"] == (saved if method.capabilities.trains else 0)
    if choice["name"] in PEFT_METHODS and variant == "float32":
        _check_plain_peft(tmp_path / "artifact", base, head, loaded)


def _check_plain_peft(artifact: Path, base: str, head: str, loaded: TunedModel) -> None:
    """PEFT alone, on the plain transformers model, gives the same."""
    import peft
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    batch = {key: value for key, value in _batch(loaded).items() if key != "labels"}
    if head == "mean":
        plain = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), artifact).eval()
        with torch.no_grad():
            expected = loaded.transformer(**batch).last_hidden_state
            found = plain(**batch).last_hidden_state
    else:
        kind = AutoModelForCausalLM if head == "lm" else AutoModelForSequenceClassification
        options = {} if head == "lm" else {"num_labels": len(LABELS)}
        plain = peft.PeftModel.from_pretrained(kind.from_pretrained(base, **options), artifact).eval()
        with torch.no_grad():
            expected = loaded.transformer(**batch).logits
            found = plain(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=_id)
@pytest.mark.parametrize(("family", "head"), [("bert", "mean"), ("bert", "model"), ("llama", "lm"), ("gpt2", "lm")])
def test_merge(choice: dict[str, Any], family: str, head: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    base = request.getfixturevalue(f"tiny_{family}")
    allowed = methods.get(choice["name"]).capabilities
    if (allowed.needs_head and head == "lm") or (choice["name"], family) == (
        "bitfit",
        "llama",
    ):
        return  # refused: see above
    model = _wrap(base, choice, head)
    if allowed.trains:
        _train(model)
    pefttools.save(model, tmp_path / "artifact")
    if not allowed.mergeable:
        with pytest.raises(ConfigError, match="can't be merged"):
            pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
        return
    pefttools.merge(tmp_path / "artifact", tmp_path / "merged")
    kind = {"mean": AutoModel, "model": AutoModelForSequenceClassification, "lm": AutoModelForCausalLM}[head]
    options = {"add_pooling_layer": False} if head == "mean" else {}
    merged = kind.from_pretrained(tmp_path / "merged", **options).eval()
    plain = copy.copy(model.spec)
    again = TunedModel(merged, model.head, plain, model.tokenizer, None).eval()
    expected = _logits(model)
    torch.testing.assert_close(_logits(again), expected, atol=1e-4 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize("choice", CHOICES, ids=_id)
def test_only_the_methods_own_parameters_and_the_head_are_trained(choice: dict[str, Any], tiny_bert: str) -> None:
    if choice["name"] in ("full", "untuned"):
        return
    model = _wrap(tiny_bert, choice, "mean")
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    _train(model, steps=1)
    for name, parameter in model.named_parameters():
        changed = not torch.equal(state[name], parameter)
        assert changed <= parameter.requires_grad, f"{name} changed"
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("choice", [c for c in CHOICES if methods.get(c["name"]).capabilities.trains], ids=_id)
def test_gradient_checkpointing_gives_the_same_gradients_or_is_refused(
    choice: dict[str, Any], tiny_llama: str, tiny_bert: str
) -> None:
    from pefttools.bases import locate_base
    from pefttools.tuned import build

    method, config = choose_method(choice)

    def gradients(base: str, task_options: dict[str, Any], checkpointing: Any) -> dict[str, torch.Tensor]:
        task = choose_task(task_options)
        model = build(
            locate_base(base), "float32", method, config, task, LABELS if base == tiny_bert else [],
            precision="float32", seed=0, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        model.train()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.any():
                # Zeros would hide the gradients behind them.
                torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
        batch = _batch(model)
        if base == tiny_llama:
            batch = {"input_ids": torch.arange(36).view(3, 12) + 200, "attention_mask": torch.ones(3, 12).long()}
            batch["labels"] = batch["input_ids"]
        torch.manual_seed(0)  # dropout must fall alike in the second run of a layer
        model(**batch, targets=batch["labels"]).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    cases: list[tuple[str, dict[str, Any]]] = [(tiny_bert, {"name": "sequence-classification", "head": "mean"})]
    if not method.capabilities.needs_head and choice["name"] != "bitfit":
        cases.append((tiny_llama, {"name": "causal-lm", "loss_rows": 5}))
    for base, task_options in cases:
        if not method.capabilities.gradient_checkpointing:
            with pytest.raises(ConfigError, match="can't train with gradient checkpointing"):
                gradients(base, task_options, True)
            continue
        plain = gradients(base, task_options, False)
        for kind in (True, "selective"):
            checked = gradients(base, task_options, kind)
            assert plain.keys() == checked.keys()
            for name in plain:
                torch.testing.assert_close(checked[name], plain[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("choice", CHOICES, ids=_id)
def test_generation_needs_no_padding_luck(choice: dict[str, Any], tiny_llama: str) -> None:
    """Answers in a left-padded batch are those of each prompt alone."""
    allowed = methods.get(choice["name"]).capabilities
    if allowed.needs_head or choice["name"] == "bitfit":
        return
    model = _wrap(tiny_llama, choice, "lm")
    if allowed.trains:
        _train(model)
    prompts = [{"input_ids": model.tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS]

    def answer(some: list[dict[str, Any]]) -> torch.Tensor:
        padded = model.tokenizer.pad(some, padding_side="left", return_tensors="pt")
        return model.generate(dict(padded), max_new_tokens=5, min_new_tokens=5)

    if not allowed.padded_generation:
        with pytest.raises(ConfigError, match="different lengths"):
            answer(prompts)
        return
    together = answer(prompts)
    for row, prompt in zip(together, prompts, strict=True):
        assert row.tolist() == answer([prompt])[0].tolist()
