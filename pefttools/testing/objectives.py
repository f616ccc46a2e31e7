"""The contract of an objective."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pefttools
from pefttools.methods import methods
from pefttools.objectives import objectives
from pefttools.planning.device import CPU
from pefttools.planning.plan import MemoryPlan
from pefttools.planning.request import resolve_request
from pefttools.recipe import Recipe, choose_objectives
from pefttools.tasks import tasks
from pefttools.training.prepare import build_model, prepare
from pefttools.tuned import TunedModel

Choice = str | Mapping[str, Any]
#: relative to the largest gradient; float32 sums in a different order stay far below
_TOLERANCE = 1e-4
_SEED = 5


def check_objective(
    objective: Choice,
    *,
    base: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    task: Choice | None = None,
    method: Choice | None = None,
) -> TunedModel:
    """Check an objective against its contract.

    It declares itself; changes what is trained; gives the same gradients whether those of a pass are taken at once or
    through the whole graph, and with recomputed activations; leaves nothing behind on the model; goes on from its
    state; and can be planned.

    Args:
        objective: its name, or a mapping with name and options.
        base: path of a base model; a tiny one is enough.
        rows: at least 12, by column role.
        folder: an empty folder, for rows and an artifact.
        task: what is trained; None for the default.
        method: method that is trained; None for the default.

    Returns:
        The model, in training mode, for checks of your own.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: an error that users would see.
    """
    (chosen,) = choose_objectives(objective)
    kind = objectives.get(chosen.name)
    assert kind.name == chosen.name, f"it is registered as {chosen.name!r} but calls itself {kind.name!r}"
    assert kind.summary and not kind.summary.endswith("."), "it needs a summary, without a full stop"
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(dict(row))}\n" for row in rows), encoding="utf-8")
    given: dict[str, Any] = {
        "base": base, "method": method or methods.default(), "task": task or tasks.default(), "objective": objective,
        "data": {"train": str(data), "validation": 0.25}, "output": folder / "artifact",
        "training": {"max_steps": 2, "batch_size": 6, "precision": "float32"},
    }  # fmt: skip
    model, batch = _model(given)
    hooks = _hooks(model)
    found = _gradients(model, batch)
    assert _hooks(model) == hooks, "it leaves hooks on the model"
    plain, _ = _model({**given, "objective": []})
    without = _gradients(plain, batch)
    assert not _same({**found, "loss": without["loss"]}, without), "it has no effect on any gradient"
    _check_graphs(given, found)
    _check_state(given)
    assert pefttools.train(given) is not None
    _planned(given)
    return model


def _model(given: dict[str, Any]) -> tuple[TunedModel, dict[str, Any]]:
    """A model in training mode whose adapter has an effect already, and a batch."""
    prepared = prepare(Recipe.model_validate(given))
    model = build_model(prepared).train()
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    batch = model.task.training_batch(model, [prepared.examples.train[number] for number in range(6)])
    return model, batch


def _gradients(model: TunedModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The loss, and the gradient of each trained parameter, of one pass."""
    given = dict(batch)
    model.zero_grad()
    torch.manual_seed(_SEED)
    loss = model(targets=given.pop("labels"), **given)
    assert loss.dim() == 0 and bool(loss.isfinite()), f"the loss of a step is {loss}"
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad.clone() for n, p in model.trained().items() if p.grad is not None}}


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    largest = max(float(value.abs().max()) for name, value in wanted.items() if name != "loss")
    return found.keys() == wanted.keys() and all(
        float((found[name] - value).abs().max()) <= _TOLERANCE * max(largest, float(value.abs().max()), 1e-6)
        for name, value in wanted.items()
    )


def _hooks(model: TunedModel) -> int:
    """Number of hooks of a model's modules."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def _check_graphs(given: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    """Gradients are the same however a step is computed."""
    model, batch = _model(given)
    (one,) = model.objectives
    kept = type("Kept", (type(one),), {"keeps_graph": True})(one.options)
    model.objectives = (kept,)
    assert _same(_gradients(model, batch), wanted), "gradients taken at once differ from those of the whole graph"
    model, batch = _model({**given, "training": {**given["training"], "gradient_checkpointing": True}})
    assert _same(_gradients(model, batch), wanted), "with recomputed activations its gradients differ"


def _check_state(given: dict[str, Any]) -> None:
    """An objective that takes back its state goes on as it was."""
    model, batch = _model(given)
    wanted = _gradients(model, batch)
    (one,) = model.objectives
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    other, _ = _model(given)
    with torch.no_grad():  # as at a later step, when it would begin elsewhere
        for parameter in other.trained().values():
            parameter.mul_(1.5)
    other.begin_objectives()
    with torch.no_grad():
        for name, parameter in other.trained().items():
            parameter.copy_(model.trained()[name])
    other.objectives[0].restore_state(state)
    assert _same(_gradients(other, batch), wanted), "after a checkpoint it is another one: its state does not hold all"


def _planned(given: dict[str, Any]) -> MemoryPlan:
    """The memory of its training."""
    request = resolve_request(
        given["base"], given["task"], [given["method"]], None, 3, [],
        {"batch_size": 6, "length": 8, "precision": "float32"}, CPU,
    )  # fmt: skip
    (planned,) = request.planned
    return replace(planned, objective=given["objective"]).row(request.shape)
