"""The loss in pieces against the loss over all logits."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pefttools
from pefttools.planning.counter import StorageCounter
from pefttools.tasks.language.language_head import chunked_cross_entropy, without_head
from pefttools.tasks.task import IGNORE

from ..allocator import peak_of


@given(
    count=st.integers(0, 20), vocabulary=st.integers(2, 40), rows=st.integers(1, 25),
    bias=st.booleans(), trained=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_all_logits(
    count: int, vocabulary: int, rows: int, bias: bool, trained: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    head = nn.Linear(6, vocabulary, bias=bias).requires_grad_(trained)
    states = torch.randn(count, 6, requires_grad=True)
    labels = torch.randint(0, vocabulary, (count,))
    inputs = [states, *(head.parameters() if trained else ())]

    whole = nn.functional.cross_entropy(head(states), labels, reduction="sum")
    pieces = chunked_cross_entropy(states, labels, head, rows)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(3 * pieces, inputs, allow_unused=count == 0)
    for own, one in zip(ours, torch.autograd.grad(3 * whole, inputs), strict=True):
        torch.testing.assert_close(torch.zeros_like(one) if own is None else own, one, rtol=1e-4, atol=1e-5)


def test_logits_never_stand_whole() -> None:
    head = nn.Linear(8, 5000).requires_grad_(False)
    states = torch.randn(512, 8, requires_grad=True)
    labels = torch.randint(0, 5000, (512,))
    with StorageCounter(torch.device("cpu")) as counter:
        chunked_cross_entropy(states, labels, head, 32).backward()
    assert counter.peak.total() < 4 * (512 * 5000) / 4


def _run(base: str, rows: int) -> tuple[float, dict[str, Any], Any]:
    model = pefttools.wrap(base, {"name": "lora", "r": 2}, task={"name": "causal-lm", "loss_rows": rows}, labels=[],
                           precision="float32")  # fmt: skip
    model.train()
    ids = torch.arange(40).view(4, 10) + 300
    targets = ids.clone()
    targets[:, :3] = IGNORE
    targets[1] = IGNORE
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), targets=targets)
    loss.backward()
    task: Any = model.spec.task
    pieces = set(task._in_pieces.values())
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, pieces


def _granite(folder: Path) -> str:
    """A model that scales its logits after the language head."""
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                           intermediate_size=64, vocab_size=30522, logits_scaling=7.0)  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("model", ["tiny_llama", "granite"])
def test_in_a_model(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = request.getfixturevalue("tiny_llama")
    if model == "granite":
        tokenizer = [file for file in Path(base).iterdir() if "token" in file.name]
        base = _granite(tmp_path)
        for file in tokenizer:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    whole, expected, _ = _run(base, 0)
    pieces, found, in_pieces = _run(base, 4)
    assert pieces == pytest.approx(whole, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    # What scales its logits is found out, and computed in one piece.
    assert in_pieces == {model != "granite"}


def test_no_label_at_all(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm", labels=[])
    model.train()
    ids = torch.arange(8).view(2, 4) + 300
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), targets=torch.full_like(ids, IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_tied_embeddings_have_two_gradients_at_a_time() -> None:
    """The head's, and a piece's or the embeddings'; never a third."""
    embedding, head = nn.Embedding(20_000, 32), nn.Linear(32, 20_000, bias=False)
    head.weight = embedding.weight
    ids = torch.arange(12)

    def step() -> None:
        chunked_cross_entropy(embedding(ids), ids, head, 3).backward()

    assert 2 <= peak_of(step) / embedding.weight.nbytes < 2.5


def test_a_forward_of_the_heads_own_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA on the head has one."""
    head = nn.Linear(4, 9)
    own = functools.partial(nn.Linear.forward, head)
    monkeypatch.setattr(head, "forward", own)
    states, passed = without_head(head, lambda: head(torch.zeros(1, 2, 4)))
    assert passed and states.shape == (1, 2, 4)
    assert vars(head)["forward"] is own
