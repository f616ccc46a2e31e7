"""Training on texts behind each other, without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, AutoModelForCausalLM, Llama4TextConfig, PreTrainedConfig, Qwen2MoeConfig

import pefttools
from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.progress import SilentReporter
from pefttools.recipe import choose_method, choose_task
from pefttools.tasks.language import padding_free
from pefttools.tasks.language.padding_free import NAME, enable, layout, pays, without_padding
from pefttools.tuned import TunedModel

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 200, "pad_token_id": 0,
}  # fmt: skip


def _model(base: str, method: Any = "lora", **task: Any) -> TunedModel:
    chosen, config = choose_method(method)
    model = build(locate_base(base), "float32", chosen, config, choose_task({"name": "causal-lm", **task}), [],
                  precision="float32", seed=0)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a fresh LoRA changes nothing, and half of its gradients are zero
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


def _examples(lengths: list[int]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(5, 200, (length,), generator=generator).tolist() for length in lengths]
    # Some labels are left out, as those of prompts are.
    return [{"input_ids": text, "labels": [-100, *text[1:]]} for text in texts]


def _gradients(model: TunedModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    batch = dict(batch)
    targets = batch.pop("labels")
    loss = model(**batch, targets=targets)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.fixture(scope="module")
def llama(tiny_llama: str) -> TunedModel:
    return _model(tiny_llama)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(2, 20), min_size=2, max_size=6))
def test_same_loss_and_gradients(llama: TunedModel, lengths: list[int]) -> None:
    task, examples = llama.spec.task, _examples(lengths)
    assert task.packs(llama)
    padded = _gradients(llama, task.collate(examples, llama.tokenizer))
    packed = _gradients(llama, without_padding(examples))
    for ours, theirs in zip(packed, padded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_layout_leads_there_and_back(lengths: list[int]) -> None:
    token, place = layout(lengths)[0]
    there = place.flatten()[: sum(lengths)]
    assert token.flatten()[there].tolist() == list(range(sum(lengths)))


def test_a_batch_with_little_padding_stays_as_it_is(llama: TunedModel) -> None:
    assert not pays([20, 20, 19])
    assert llama.spec.task.training_batch(llama, _examples([20, 20, 19]))["input_ids"].shape == (3, 20)
    assert llama.spec.task.training_batch(llama, _examples([20, 5]))["input_ids"].shape == (1, 25)


@pytest.mark.parametrize(("method", "task"), [("prefix", {}), ("prompt", {}), ("lora", {"packing": False})])
def test_where_it_can_not_be_texts_are_padded(method: str, task: dict[str, Any], tiny_llama: str) -> None:
    model = _model(tiny_llama, method, **task)
    assert model.spec.task.training_batch(model, _examples([20, 5]))["input_ids"].shape == (2, 20)


def test_a_model_with_other_results_is_left_alone(tiny_llama: str) -> None:
    model = _model(tiny_llama)
    module: Any
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # then a text would see the padding behind another
    assert not model.spec.task.packs(model)
    assert model.transformer.get_base_model().config._attn_implementation != NAME


def test_a_model_that_is_told_no_positions_is_left_alone(tiny_llama: str) -> None:
    model = _model(tiny_llama)
    inner = model.transformer.get_base_model()
    inner.forward = lambda input_ids=None, attention_mask=None, **_: None
    assert not model.spec.task.packs(model)


def test_attention_that_reaches_back_a_few_tokens(llama: TunedModel) -> None:
    """Sliding windows, as Mistral has them, against attention to each text alone."""
    from pefttools.tasks.language.padding_free import _attention

    module: Any = next(module for module in llama.modules() if hasattr(module, "is_causal"))
    groups, lengths = module.num_key_value_groups, [9, 4, 7]
    q, k, v = (torch.randn(1, heads, sum(lengths), 8) for heads in (2 * groups, 2, 2))
    out, _ = _attention(module, q, k, v, layout(lengths), sliding_window=3)
    for text, part in zip(
        out[0].split(lengths), zip(*(t.split(lengths, 2) for t in (q, k, v)), strict=True), strict=True
    ):
        at = torch.arange(len(text))
        back = at[:, None] - at
        query, key, value = part
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=(back >= 0) & (back < 3), enable_gqa=True
        )
        torch.testing.assert_close(text, wanted[0].transpose(0, 1))


def test_each_model_that_is_built_for_a_task_is_made_ready(tiny_llama: str) -> None:
    """A comparison builds several: one per learning rate, one to measure memory."""
    first = _model(tiny_llama)
    chosen, config = choose_method("lora")
    second = build(locate_base(tiny_llama), "float32", chosen, config, first.spec.task, [], precision="float32", seed=0)
    for model in (first, second):
        batch = model.spec.task.training_batch(model, _examples([20, 5]))
        assert batch["input_ids"].shape == (1, 25)
        assert torch.isfinite(_gradients(model, batch)[0])


@pytest.mark.parametrize(
    "config",
    [
        Qwen2MoeConfig(layer_types=["full_attention", "sliding_attention"], sliding_window=16, use_sliding_window=True,
                       num_experts=2, num_experts_per_tok=1, **SMALL),
        Llama4TextConfig(attention_chunk_size=16, num_local_experts=2, intermediate_size_mlp=64, head_dim=16, **SMALL),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_a_window_that_only_the_mask_knows_is_not_lost(config: PreTrainedConfig) -> None:
    inner = AutoModelForCausalLM.from_config(config)
    why = enable(inner)
    assert why is not None and ("different results" in why or "chunks" in why)
    assert inner.config._attn_implementation == "sdpa"


def test_a_trial_that_breaks_leaves_nothing_behind(tiny_llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with monkeypatch.context() as patch:
        patch.setattr(padding_free, "_agrees", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            enable(inner)
    assert inner.config._attn_implementation == "sdpa"
    assert AttentionInterface()[NAME] is padding_free._attention


@pytest.mark.parametrize("variant", ["nf4", "int8"])
def test_a_base_that_computes_in_16_bits_is_not_held_to_32(variant: str, tiny_llama: str) -> None:
    """Its logits are float32 all the same, as a card's quantized ones are."""
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm", variant=variant, precision="float32")
    inner = model.transformer
    model.spec.variant.compute_in(inner, torch.bfloat16)

    def rounding(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        # A card's kernels depend on how many rows there are; this machine's may not.
        return output * (1 + 0.004 * (output.shape[1] % 3))

    inner.get_output_embeddings().register_forward_hook(rounding)
    assert enable(inner) is not None
    assert model.spec.task.packs(model)


def test_that_rows_are_padded_is_said(tiny_gpt2: str, tmp_path: Path) -> None:
    rows = [{"prompt": "a " * (1 + row % 5), "completion": "b"} for row in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    class Heard(SilentReporter):
        def __init__(self) -> None:
            self.events: list[str] = []

        def event(self, text: str) -> None:
            self.events.append(text)

    heard = Heard()
    with mock.patch.object(padding_free, "_agrees", return_value=False):
        pefttools.train(
            {"base": tiny_gpt2, "method": "lora", "task": "causal-lm", "data": {"train": str(file)},
             "training": {"max_steps": 1, "batch_size": 2, "checkpoints": False}, "output": str(tmp_path / "out")},
            reporter=heard,
        )  # fmt: skip
    assert any("task.packing is off: the model gives different results" in text for text in heard.events)
