"""Every operation of a model on a card has all its tensors there, as far as that can be seen without one.

Models stand on the meta device, which takes the card's part: what is still in RAM is told apart from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._pytree import tree_leaves

from pefttools.bases.quiet import quiet
from pefttools.bases.skeleton import skeleton
from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.planning.decoding import read_and_continue
from pefttools.planning.device import CPU
from pefttools.planning.fake import WithoutNumbers
from pefttools.planning.plan import Planned, Shape
from pefttools.pool.adapter_cache import Resident, Source
from pefttools.pool.base import load_served_base
from pefttools.pool.planned import _adapter
from pefttools.pool.prepare import Preparer
from pefttools.pool.running import Runner, fetched
from pefttools.pool.weight_slots import WeightSlots
from pefttools.training.step import optimizer_step

from ..methods import AVAILABLE, CORE, choice_of

CARD = torch.device("meta")
SHAPE = Shape(2, 8, eval_batch_size=2, precision="float32")
HEADS: dict[str, Any] = {
    head: {"name": "sequence-classification", "head": head} for head in ("mean", "model")
}  # fmt: skip
TASKS: dict[str, Any] = {**HEADS, "causal-lm": "causal-lm"}


class OneDevice(WithoutNumbers):
    """Refuses operations on tensors of two devices; single numbers aside, which CUDA takes from anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and given.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=given.get("dtype") or args[0].dtype)
        tensors = [one for one in tree_leaves((args, given)) if isinstance(one, torch.Tensor)]
        if len({one.device.type for one in tensors if one.dim()}) > 1 and func is not torch.ops.aten.copy_.default:
            found = [(one.device.type, tuple(one.shape)) for one in tensors]
            raise AssertionError(f"{func} on tensors of two devices: {found}")
        if func is torch.ops.aten._local_scalar_dense.default and tensors[0].is_meta:
            return tensors[0].dtype == torch.bool or 1
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def on_a_card() -> Iterator[None]:
    """Within it operations on two devices are refused."""
    enabled, autocast = torch.is_autocast_enabled, torch.autocast

    # Autocast knows no meta device.
    def asked(kind: str = "cpu") -> bool:
        return kind != "meta" and enabled(kind)

    def cast(kind: str, *args: Any, **options: Any) -> Any:
        return nullcontext() if kind == "meta" else autocast(kind, *args, **options)

    with (
        mock.patch.object(torch, "is_autocast_enabled", asked),
        mock.patch.object(torch, "autocast", cast),
        mock.patch.object(torch.amp.autocast_mode, "autocast", cast),
        OneDevice(),
    ):
        yield


def _planned(base: str, task: str, method: str, variant: str) -> Planned:
    return Planned(skeleton(base), TASKS[task], choice_of(method), variant, 0 if task == "causal-lm" else 2, CPU)


def _cases(tasks: Iterable[str] = TASKS) -> Iterator[Any]:
    for task in tasks:
        for method in AVAILABLE:
            for variant in ("float32", "nf4"):
                slow = method not in CORE or (variant == "nf4" and method not in ("lora", "prefix", "bottleneck"))
                yield pytest.param(task, method, variant, marks=[pytest.mark.slow] if slow else [])


def _refused(error: ConfigError) -> bool:
    said = ("can't be used with the variant", "can't train the task", "have no bias terms", "has no delta form")
    return any(text in error.message for text in said)


@pytest.mark.parametrize(("task", "method", "variant"), _cases())
def test_a_step_and_an_evaluation(task: str, method: str, variant: str, tiny_bert: str, tiny_llama: str) -> None:
    try:
        model = _planned(tiny_llama if task == "causal-lm" else tiny_bert, task, method, variant).build(SHAPE)
    except ConfigError as error:
        assert _refused(error)
        return
    assert model.device == CARD
    example = model.spec.task.planned_example(8)
    batch = {name: torch.tensor([example[name]] * 2) for name in example}
    trained = [p for p in model.parameters() if p.requires_grad]
    with mock.patch.object(type(model.spec.task), "collate", lambda *_: dict(batch)), on_a_card():
        if trained:
            optimizer_step(model.train(), [example] * 2, 1, torch.optim.AdamW(trained))
        model.spec.task.evaluation_pass(model, model.spec.task.collate([example] * 2, model.tokenizer))
        if task == "causal-lm":
            model.run([example] * 2)


# A head of transformers' own class needs the base's numbers: benchmarks/card/pools.py has it, on a card.
@pytest.mark.parametrize(("task", "method", "variant"), _cases(["mean", "causal-lm"]))
def test_a_mixed_batch(task: str, method: str, variant: str, tiny_bert: str, tiny_llama: str) -> None:
    planned = _planned(tiny_llama if task == "causal-lm" else tiny_bert, task, method, variant)
    with torch.device("meta"), quiet():
        served = load_served_base(planned.base, variant, None, None, causal=task == "causal-lm")
    try:
        prepared, *_ = _adapter(planned, SHAPE, Preparer(served))
    except ConfigError as error:
        assert _refused(error)
        return
    ids = torch.ones(3, 6, dtype=torch.long)
    with torch.no_grad(), on_a_card():
        weight_slots = WeightSlots(served.model, 3)
        held = [Resident("a", Source(Path(), ""), prepared, weight_slots.allocate(prepared.deltas)) for _ in range(2)]
        runner = Runner(served, weight_slots, mock.MagicMock(), compile=False)
        rows = [held[0], None, held[1]]
        batch = all_moved({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, CARD)
        answers = runner.answer(rows, batch)
        if task != "causal-lm":
            fetched([one for one in answers if one.labels])
        else:
            with runner.reading(rows):
                read_and_continue(served.model, served.model, batch, 4)
    weight_slots.remove(held[0].allocation)


def test_it_sees_what_is_left_behind(tiny_bert: str) -> None:
    model = _planned(tiny_bert, "mean", "lora", "float32").build(SHAPE)
    example = model.spec.task.planned_example(8)
    with on_a_card(), pytest.raises(AssertionError, match="two devices"):
        model(input_ids=torch.tensor([example["input_ids"]]))
