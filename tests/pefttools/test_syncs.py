"""What a card would have to be waited for, counted on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.compute.finite import FiniteLosses
from pefttools.errors import DivergedError
from pefttools.pool import AdapterPool
from pefttools.pool.generation import Sampling
from pefttools.pool.running import fetched

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from syncs import Waits, waits

HEAD = {"name": "sequence-classification", "head": "mean"}
OWN_HEAD = {"name": "sequence-classification", "head": "model"}


def _saved(base: str, method: str, task: Any, folder: Path) -> Path:
    labels = [] if task == "causal-lm" else ["a", "b"]
    pefttools.save(pefttools.wrap(base, method, task=task, labels=labels), folder)
    return folder


def test_no_row_of_a_batch_is_waited_for_by_itself(tiny_bert: str, tmp_path: Path) -> None:
    pool = AdapterPool(tiny_bert)
    for name, task in (("lora", HEAD), ("prefix", HEAD), ("own", OWN_HEAD)):
        pool.load(name, _saved(tiny_bert, "prefix" if name == "prefix" else "lora", task, tmp_path / name))

    def counted(rows: int) -> Waits:
        names = (["lora", "prefix", "own"] * rows)[:rows]
        inputs = ["where is my card?" + " please" * (row % 3) for row in range(rows)]
        return waits(lambda: fetched(pool(inputs, names)))

    few, many = counted(4), counted(12)
    assert many.ours.total() <= few.ours.total() <= 2, many.ours


def test_no_token_is_waited_for_but_by_transformers(tiny_llama: str, tmp_path: Path) -> None:
    pool = AdapterPool(tiny_llama)
    for method in ("lora", "prefix"):
        pool.load(method, _saved(tiny_llama, method, "causal-lm", tmp_path / method))
    names = ["lora", None, "prefix", "lora"]
    drawn = [None, Sampling(1, 0.8, top_k=5), Sampling(2, 0.8, top_k=5), Sampling(3, 1.2, top_p=0.9)]

    def counted(new: int) -> Waits:
        lengths = [new, new - 1, new, new]
        prompts = ["a b", "a", "a b c", "a"]
        return waits(lambda: pool.generate(prompts, names, max_new_tokens=lengths, min_new_tokens=2, sampling=drawn))

    few, many = counted(4), counted(12)
    assert many.ours.total() <= few.ours.total(), many.ours


def test_no_pass_of_a_training_is_waited_for(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm").train()
    examples = [{"input_ids": [5] * length, "labels": [5] * length} for length in (3, 9, 14)]
    batch = model.spec.task.training_batch(model, examples)
    targets = batch.pop("labels")
    assert waits(lambda: model(**batch, targets=targets).backward()).ours.total() == 0


def test_rows_drawn_together_get_what_each_gets_alone(tiny_llama: str) -> None:
    pool = AdapterPool(tiny_llama)
    settings = [(0.7, 5, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.8), (0.7, 5, 1.0)]
    drawn = [Sampling(row, one[0], top_k=one[1], top_p=one[2]) for row, one in enumerate(settings)]
    together = pool.generate_tokens(["a b c"] * 4, [None] * 4, max_new_tokens=8, sampling=drawn)
    for row, own in enumerate(drawn):
        assert torch.equal(pool.generate_tokens(["a b c"], [None], max_new_tokens=8, sampling=own)[0], together[row])


def test_a_loss_that_is_no_number_is_told_with_its_step() -> None:
    losses = FiniteLosses(float16=True)
    losses.see(1, torch.tensor(0.5))
    with pytest.raises(DivergedError, match="at step 2") as told:
        losses.see(2, torch.tensor(float("inf")))
    assert told.value.hint is not None and "float16" in told.value.hint
    losses.settle()


@pytest.mark.cuda
def test_a_loss_on_a_card_is_told_with_its_step() -> None:
    losses = FiniteLosses(float16=False)
    with pytest.raises(DivergedError, match="at step 3"):
        for step in range(1, 6):
            losses.see(step, torch.tensor(float("nan") if step == 3 else 1.0, device="cuda"))
        losses.settle()
