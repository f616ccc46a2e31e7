"""The contract of a task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pefttools
from pefttools.errors import BaseModelError, DataError, PeftToolsError
from pefttools.methods import methods
from pefttools.recipe import choose_task
from pefttools.tasks.task import IGNORE, Example, Task
from pefttools.testing.rows import table_of_rows
from pefttools.training.store import Stored
from pefttools.tuned import TunedModel

Choice = str | Mapping[str, Any]
#: relative to the largest logit; float32 sums in a different order stay far below
_TOLERANCE = 1e-4


def check_task(
    task: Choice,
    *,
    base: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    method: Choice | None = None,
    variant: str = "float32",
) -> Stored:
    """Check a task against its contract.

    It declares itself, refuses rows without input, trains, gives a row the same result in a padded batch as alone, is
    saved and loaded with equal predictions, has metrics that follow from its rows' values, predicts without labels, can
    be planned, and is served in a pool alongside another adapter.

    Args:
        task: its name, or a mapping with name and options.
        base: path of a base model that it can be trained on; a tiny one is enough.
        rows: at least 12, by column role; some must be longer than others.
        folder: an empty folder, for an artifact.
        method: method that it is trained with; None for the default.
        variant: variant of the base.

    Returns:
        The trained model, for checks of your own.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: an error that users would see.
    """
    chosen = choose_task(task if isinstance(task, str) else dict(task))
    check_declarations(chosen)
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(dict(row))}\n" for row in rows), encoding="utf-8")
    recipe = {
        "base": base,
        "variant": variant,
        "method": dict(method) if isinstance(method, Mapping) else method or methods.default(),
        "task": task if isinstance(task, str) else dict(task),
        "data": {"train": str(data), "validation": 0.34},
        "training": {"max_steps": 3, "batch_size": 4, "precision": "float32"},
        "output": str(folder / "artifact"),
    }
    stored = pefttools.train(recipe)
    assert stored is not None
    model = stored.model
    _check_refusals(chosen, rows, model.labels)
    table = table_of_rows(rows, chosen)
    examples = model.spec.task.encode(table, model.processor, model.labels)
    check_batches(model, model.spec.task.training_set(examples))
    check_measures(model, examples)
    _check_predictions(model, folder / "artifact", rows)
    _check_plan(recipe, base)
    if not chosen.generates or chosen.encoder_decoder:
        _check_pool(base, variant, folder / "artifact", rows)
    return stored


def check_declarations(task: Task[Any]) -> None:
    """What a task declares about itself."""
    assert task.name and task.summary and not task.summary.endswith("."), (
        "it needs a name and a summary, without a full stop"
    )
    assert task.inputs(), "no role is an input"
    assert task.main_role() in task.inputs(), "the first role must be an input"
    assert task.self_supervised or task.inputs() < set(task.roles), "no role is to be predicted"
    names = [metric.name for metric in task.metrics]
    assert names and len(names) == len(set(names)), f"metrics must have distinct names: {names}"
    assert task.metrics[0].measure.higher_is_better is not None, (
        "it must be known whether higher or lower is better for the first metric"
    )


def check_batches(model: TunedModel, examples: Sequence[Example]) -> None:
    """A row's logits do not depend on its neighbours; a step's losses add up, unless declared otherwise."""
    task = model.spec.task
    sizes = task.sizes(examples)
    short, long = sizes.index(min(sizes)), sizes.index(max(sizes))
    assert sizes[short] < sizes[long] or task.sized_by is None, "give rows of different lengths"
    long = long if long != short else (short + 1) % len(examples)
    with model.inference_mode():
        together, alone = model.run([examples[short], examples[long]]).float(), model.run([examples[short]]).float()
        # Without padding: other rows may have more tokens, or more choices.
        seen = together[:1, : len(examples[short]["labels"]) if task.generates else alone.shape[1]]
        alone = alone[:1, : seen.shape[1]]
        limit = _TOLERANCE * max(1.0, float(alone.abs().max()))
        assert float((seen - alone).abs().max()) <= limit, "padding changes a row's logits"
        if task.loss_over_batch:
            _check_parts(model, examples[:6])
            return
        parts, whole = [examples[:3], examples[3:6]], examples[:6]
        counts = [_count(task, part, model) for part in parts]
        losses = [_loss(model, part, sum(counts)) for part in parts]
        assert math.isclose(sum(losses), _loss(model, whole, sum(counts)), rel_tol=1e-4), "losses of parts don't add up"
        assert math.isclose(_loss(model, whole, None), sum(losses), rel_tol=1e-4), (
            "the loss without num_items_in_batch must be the mean over the labels"
        )


def _check_parts(model: TunedModel, examples: Sequence[Example]) -> None:
    """A loss of the whole batch and its gradients are the same for any divisor and any number of parts."""
    whole = _loss(model, examples, None)
    assert math.isclose(whole, _loss(model, examples, 3), rel_tol=1e-4), (
        "a loss of the whole batch must be a mean over its rows, whatever num_items_in_batch is"
    )
    learned = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    frozen = [p for p in learned.values() if not p.requires_grad]
    found = []
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for model.parts in (1, 3):
            with torch.enable_grad():
                batch = model.spec.task.collate(examples, model.processor)
                loss = model(**batch, targets=batch["labels"])
                found.append(
                    (float(loss.detach()), torch.autograd.grad(loss, list(learned.values()), allow_unused=True))
                )
    finally:
        model.parts = 1
        for parameter in frozen:
            parameter.requires_grad_(False)
    (one, gradients), (other, in_parts) = found
    assert math.isclose(one, whole, rel_tol=1e-4) and math.isclose(other, whole, rel_tol=1e-4), (
        f"the loss of a batch in parts is {other}, not {whole}"
    )
    for name, first, second in zip(learned, gradients, in_parts, strict=True):
        assert (first is None) == (second is None), name
        if first is not None and second is not None:
            limit = _TOLERANCE * max(1e-3, float(first.abs().max()))
            assert float((first - second).abs().max()) <= limit, f"the gradient of {name} is different in parts"


def _count(task: Task[Any], examples: Sequence[Example], model: TunedModel) -> int:
    """Labels of a batch, as transformers' Trainer counts them."""
    return int((task.collate(examples, model.processor)["labels"] != IGNORE).sum())


def _loss(model: TunedModel, examples: Sequence[Example], items: int | None) -> float:
    batch = model.spec.task.collate(examples, model.processor)
    labels = batch.pop("labels")
    return float(model(**batch, targets=labels, num_items_in_batch=items))


def check_measures(model: TunedModel, examples: Sequence[Example]) -> None:
    """Every metric is finite or declares that it is not, and is the mean of its rows' values."""
    found = model.spec.task.evaluate(model, examples, batch_size=4)
    for metric in found.measured:
        value = found.metrics[metric.name]
        values = found.row_values(metric.name)
        if values is not None:
            assert math.isclose(values.mean(), value, rel_tol=1e-6, abs_tol=1e-9), metric.name
            assert len(values) == len(examples), metric.name
        bounds = metric.measure.bounds
        if bounds is not None and not math.isnan(value):
            high = math.inf if bounds[1] is None else bounds[1]
            assert bounds[0] - 1e-9 <= value <= high + 1e-9, f"{metric.name}={value} is out of its bounds {bounds}"
    for entry in found.entries():
        assert {"prediction", "reference"} <= entry.keys()
    json.dumps(found.entries(), allow_nan=False)


def _check_refusals(task: Task[Any], rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """A row without an input is refused with an error that names its place."""
    for role in task.inputs() & rows[0].keys():
        spoiled = [dict(row) for row in rows[:3]]
        spoiled[1][role] = None
        try:
            task.check(table_of_rows(spoiled, task), labels)
        except DataError as error:
            assert "row 2" in str(error) and role in str(error), f"the error names neither row nor column: {error}"
        else:
            raise AssertionError(f"a row whose {role!r} is empty was accepted")


def _check_predictions(model: TunedModel, artifact: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A loaded artifact predicts what the trained model does, also without labels."""
    task = model.spec.task
    inputs = [{role: row[role] for role in task.inputs() & row.keys()} for row in rows]
    before, after = pefttools.predict(model, inputs), pefttools.predict(artifact, inputs)
    assert before == after, "a loaded artifact gives different predictions"
    assert all("prediction" in one for one in after) and len(after) == len(rows)


def _check_plan(recipe: Mapping[str, Any], base: str) -> None:
    (row,) = pefttools.plan(
        base, task=recipe["task"], methods=[recipe["method"]], variants=[recipe["variant"]], labels=3,
        batch_size=4, length=16, eval_batch_size=4,
    )  # fmt: skip
    assert row.peak_bytes > row.weights_bytes > 0


def _check_pool(base: str, variant: str, artifact: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A pool predicts what the artifact alone does, or refuses it with an error that names it."""
    try:
        pool = pefttools.AdapterPool(base, variant=variant)
    except BaseModelError:
        assert not pefttools.load(artifact).spec.task.servable
        return
    try:
        pool.load("one", artifact)
    except PeftToolsError as error:
        assert "can't be served" in str(error), error
        return
    pool.load("other", artifact)
    roles = pefttools.load(artifact).spec.task.inputs()
    inputs = [{role: row[role] for role in roles & row.keys()} for row in rows]
    alone = pefttools.predict(artifact, inputs)
    with torch.no_grad():
        mixed = pool.predict(inputs, ["one" if n % 2 else "other" for n in range(len(inputs))])
    for one, other in zip(alone, mixed, strict=True):
        assert _alike(one["prediction"], other["prediction"]), f"a pool predicts {other}, but the adapter alone {one}"


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    numbers = isinstance(one, float) and isinstance(other, float)
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4) if numbers else bool(one == other)
