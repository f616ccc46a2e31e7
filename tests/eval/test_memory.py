"""The memory counter, against tensors whose sizes are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pefttools
from pefttools.compute.config import TrainingConfig
from pefttools.eval.memory import profile
from pefttools.planning.counter import StorageCounter, weights_of

from ..allocator import peak_of

CPU = torch.device("cpu")


def test_views_count_once_and_the_dead_do_not_count() -> None:
    counter = StorageCounter(CPU)
    with counter:
        a = torch.ones(1000)
        _view = a.view(10, 100)[3:]
        assert counter.now.total() == 4000
        b = a + 1
        assert counter.now.total() == 8000
        del b
        assert counter.now.total() == 4000
        _c = a * 2
    assert counter.peak.total() == 8000


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_a_linear_layers_step(inputs: int, outputs: int, rows: int) -> None:
    layer = nn.Linear(inputs, outputs)
    counter = StorageCounter(CPU)
    for parameter in layer.parameters():
        counter.track(parameter, "weights")
    weights = 4 * (inputs * outputs + outputs)
    x = torch.randn(rows, inputs)
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: counter.track(p.grad, "gradients")) for p in layer.parameters()
    ]
    with counter:
        loss = layer(x).sum()
        loss.backward()
    assert counter.now["weights"] == weights
    assert counter.now["gradients"] == weights
    assert counter.peak.total() >= 2 * weights
    del loss
    layer.zero_grad()
    assert counter.now["gradients"] == 0 and counter.now["other"] == 0
    assert hooks


def test_against_the_allocators_own_record(tiny_bert: str) -> None:
    """torch's profiler hears of every allocation; both see the same peak beyond what was there before."""
    model = pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], precision="float32",
                           task={"name": "sequence-classification", "head": "mean"})  # fmt: skip
    examples = [{**model.tokenizer("some words " * 10), "labels": n % 2} for n in range(16)]
    for one in examples:
        one.pop("token_type_ids")
    batch = model.spec.task.collate(examples, model.tokenizer)
    labels = batch.pop("labels")

    def step() -> None:
        model.spec.task.loss(model(**batch), labels).backward()
        model.zero_grad()

    step()
    counter = StorageCounter(CPU)
    for tensor in (*weights_of(model), *batch.values(), labels):
        counter.track(tensor, "weights")
    with counter:
        step()
    peak = peak_of(step)
    assert counter.peak.total() == pytest.approx(peak + counter.peak["weights"], rel=0.01)


def test_parts_of_methods(tiny_bert: str) -> None:
    found = {}
    for method in ("full", "lora", "head"):
        model = pefttools.wrap(tiny_bert, method, labels=["a", "b"], precision="float32",
                               task={"name": "sequence-classification", "head": "mean"})  # fmt: skip
        examples = [{"input_ids": [101, *range(1000, 1000 + n), 102], "attention_mask": [1] * (n + 2), "labels": n % 2}
                    for n in range(5, 37)]  # fmt: skip
        found[method] = profile(model, examples[:8], TrainingConfig(eval_batch_size=8), examples, rss=1)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        moments = 2 * 4 * trained
        assert moments <= found[method].training.optimizer <= moments + 8 * len(list(model.parameters()))
        assert found[method].training.weights >= 4 * sum(p.numel() for p in model.parameters())
        assert found[method].batch[0] == 8
    assert found["full"].training.peak > found["lora"].training.peak > found["head"].training.peak
    assert found["lora"].evaluation.other < found["lora"].training.other
