"""One cell of base x method x head, tried from wrapping to serving: it works, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

import pefttools
from pefttools.data import Table
from pefttools.errors import PeftToolsError
from pefttools.methods import methods
from pefttools.tuned import TunedModel

TEXTS = ["a short text", "another text that is a good deal longer than the first one", "third"]
LABELS = ["a", "b", "c"]
TASKS: dict[str, dict[str, Any]] = {
    "mean": {"name": "sequence-classification", "head": "mean"},
    "model": {"name": "sequence-classification", "head": "model"},
    "lm": {"name": "causal-lm"},
}
#: every option that changes where or what is trained
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "head": {"name": "head"},
    "untuned": {"name": "untuned"},
    "lora": {"name": "lora", "r": 4},
    "dora": {"name": "lora", "r": 4, "dora": True},
    "ia3": {"name": "ia3"},
    "prefix": {"name": "prefix", "length": 5},
    "prompt": {"name": "prompt", "length": 5},
    "houlsby": {"name": "bottleneck", "size": 8},
    "pfeiffer": {"name": "bottleneck", "size": 8, "placement": "pfeiffer"},
    "parallel": {"name": "bottleneck", "size": 8, "placement": "parallel"},
    "bitfit": {"name": "bitfit"},
}


@dataclass(frozen=True)
class Cell:
    """What came of a combination.

    Attributes:
        refused: message of the refusal; None: it works.
        loaded: weights were read before the refusal.
        merged: it can be merged, and the merged model answers alike; else message of the refusal.
        pooled: the same of a pool.
    """

    refused: str | None = None
    loaded: bool = False
    merged: str | None = None
    pooled: str | None = None


class Wrong(AssertionError):
    """A combination that works neither right nor is refused."""


def try_cell(base: str, method: str, head: str, folder: Path, serve: bool = True) -> Cell:
    """Wrap, train, save, load, merge and serve; each row alone and padded.

    Raises:
        Wrong: whatever is not as it should be.
    """
    labels = [] if head == "lm" else LABELS
    with _counted_loading() as loaded:
        try:
            model = pefttools.wrap(base, METHODS[method], task=TASKS[head], labels=labels, precision="float32", seed=1)
        except PeftToolsError as error:
            return Cell(refused=str(error), loaded=bool(loaded))
    if model.spec.method.capabilities.trains != "nothing":
        _train(model)
    examples = _examples(model)
    alone = [answer(model, [example])[0] for example in examples]
    for side in ("right", "left") if head != "lm" else ("right",):
        for index, row in enumerate(answer(model, examples, side)):
            _check(row, alone[index], f"row {index} padded on the {side} is not what it is alone")
    pefttools.save(model, folder / "artifact")
    again = pefttools.load(folder / "artifact")
    for index, row in enumerate(answer(again, examples)):
        _check(row, alone[index], f"row {index} of the loaded artifact is not what was saved")
    merged = _merged(model, head, folder, examples, alone)
    pooled = _pooled(model, folder / "artifact", examples, alone) if serve else None
    return Cell(merged=merged, pooled=pooled)


def answer(model: TunedModel, examples: list[dict[str, Any]], side: str = "right") -> list[torch.Tensor]:
    """Logits per row: ``[labels]``, or ``[tokens, vocabulary]`` of the tokens that are not padding."""
    if side == "right":
        batch = model.spec.task.collate(examples, model.tokenizer)
    else:
        inputs = [{k: v for k, v in one.items() if k != "labels"} for one in examples]
        batch = dict(model.tokenizer.pad(inputs, padding_side=side, return_tensors="pt"))
    batch.pop("labels", None)
    logits = model.run_batch(batch).float()
    if logits.ndim == 2:
        return list(logits)
    return [row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]


def _examples(model: TunedModel) -> list[dict[str, Any]]:
    if model.spec.task.name == "causal-lm":
        rows = [{"prompt": text, "completion": "an answer"} for text in TEXTS]
        table = Table("t", rows, {"prompt": "prompt", "completion": "completion"}, range(3))
        encoded = model.spec.task.encode(table, model.tokenizer, [])
        return [{"input_ids": one["input_ids"], "labels": one["labels"]} for one in encoded]
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    return model.spec.task.encode(
        Table("t", rows, {"text": "text", "label": "label"}, range(3)), model.tokenizer, LABELS
    )


def _train(model: TunedModel) -> None:
    """Two large steps; everything that is trained gets a gradient, everything else stays."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.02)
    batch = model.spec.task.collate(_examples(model), model.tokenizer)
    labels = batch.pop("labels")
    model.train()
    for _ in range(2):
        model(**batch, targets=labels).backward()
        without = [name for name, p in trained.items() if p.grad is None]
        if without and model.spec.method.name != "full":  # a base may hold what such a task does not use
            raise Wrong(f"no gradient: {', '.join(without[:4])}")
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    if changed - trained.keys():
        raise Wrong(f"frozen, but changed: {sorted(changed - trained.keys())[:4]}")
    still = sorted(trained.keys() - changed)
    if still and model.spec.method.name != "full":
        raise Wrong(f"trained, but as before: {still[:4]}")


def _merged(
    model: TunedModel, head: str, folder: Path, examples: list[dict[str, Any]], alone: list[torch.Tensor]
) -> str | None:
    try:
        pefttools.merge(folder / "artifact", folder / "merged")
    except PeftToolsError as error:
        return str(error)
    kind = {"mean": AutoModel, "model": AutoModelForSequenceClassification, "lm": AutoModelForCausalLM}[head]
    plain = TunedModel(kind.from_pretrained(folder / "merged"), model.head, model.spec, model.tokenizer, None).eval()
    for index, row in enumerate(answer(plain, examples)):
        _check(row, alone[index], f"row {index} of the merged model is not the adapter's")
    return None


def _pooled(model: TunedModel, artifact: Path, examples: list[dict[str, Any]], alone: list[torch.Tensor]) -> str | None:
    try:
        pool = pefttools.AdapterPool(model.spec.base.id)
        pool.load("one", artifact)
        rows = [{key: one[key] for key in ("input_ids",)} for one in (*examples, examples[1])]
        for side in ("right", "left"):
            batch = model.tokenizer.pad(rows, padding_side=side, return_tensors="pt")
            for index, found in enumerate(pool(dict(batch), ["one"] * len(examples) + [None])[:-1]):
                assert found.logits is not None
                _check(found.logits, alone[index], f"row {index} of a pool, padded on the {side}, is not the adapter's")
    except PeftToolsError as error:
        return str(error)
    return None


def _check(found: torch.Tensor, wanted: torch.Tensor, message: str) -> None:
    if found.shape != wanted.shape:
        raise Wrong(f"{message}: shapes {tuple(found.shape)} and {tuple(wanted.shape)}")
    error = float((found - wanted).abs().max())
    if not error <= 1e-4 * max(1.0, float(wanted.abs().max())):
        raise Wrong(f"{message}: off by {error:.3g}, largest logit {float(wanted.abs().max()):.3g}")


@contextmanager
def _counted_loading() -> Iterator[list[str]]:
    """Names of the model classes whose weights were read meanwhile."""
    seen: list[str] = []
    read = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(cls.__name__)
        return read(cls, *args, **kwargs)

    with mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(counted)):
        yield seen


def cells(families: dict[str, Any], decoders: dict[str, Any]) -> list[tuple[str, str, str]]:
    """All combinations of family, method and head that a user may ask for."""
    return [
        (family, method, head)
        for family in families
        for method in METHODS
        for head in (("mean", "model", "lm") if family in decoders else ("mean", "model"))
        if not (methods.get(METHODS[method]["name"]).capabilities.trains == "head" and head == "lm")
    ]
