"""Mixout: weights as the formula says, in every pass and its backward pass, and as they are everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call

import pefttools
from pefttools.errors import ConfigError
from pefttools.objectives.mixout import Mixout, MixoutConfig
from pefttools.objectives.objective import check_together
from pefttools.objectives.step import Step
from pefttools.planning.device import CPU
from pefttools.planning.plan import Planned, Shape
from pefttools.recipe import choose_objectives
from pefttools.tuned import TunedModel
from tests.methods import AVAILABLE, choice_of, daily
from tests.pefttools.objectives.models import batch_of, classifier, gradients, peak_of_step

SHARE = 0.4
MIXOUT = {"name": "mixout", "p": SHARE}
Tensors = dict[str, torch.Tensor]


def _moved(model: TunedModel) -> TunedModel:
    """The model as after some steps: its weights are not those that it began with."""
    model.begin_objectives()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.trained().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return model


def _values(model: TunedModel) -> Tensors:
    return {name: weight.detach().clone() for name, weight in model.trained().items()}


def _drawn(model: TunedModel, start: Tensors) -> Tensors:
    """Which weights are replaced in a step that begins with the seed that was just set."""
    mixed = [name for name in start if name not in model.of_head()]
    return {name: torch.empty_like(start[name], dtype=torch.bool).bernoulli_(SHARE) for name in mixed}


def _mixed(weight: torch.Tensor, start: torch.Tensor, replaced: torch.Tensor) -> torch.Tensor:
    m = replaced.to(weight.dtype)
    return (m * start + (1 - m) * weight - SHARE * start) / (1 - SHARE)


def _close(found: Tensors, wanted: Tensors, tolerance: float = 1e-4) -> None:
    largest = max(float(value.abs().max()) for name, value in wanted.items() if name)
    for name, value in wanted.items():
        size = max(float(value.abs().max()), largest)
        assert float((found[name] - value).abs().max()) <= tolerance * size, name


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_the_papers_formula(method: str, tiny_bert: str) -> None:
    """In float64, by autograd through the formula and, along one direction, by finite differences."""
    model = classifier(tiny_bert, [MIXOUT, "l2-sp"], method).double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start = _values(model)
    _moved(model)
    own, batch = _values(model), batch_of(model)
    torch.manual_seed(3)
    found = gradients(model, batch)
    assert all(torch.equal(weight, own[name]) for name, weight in _values(model).items()), "weights are not put back"
    torch.manual_seed(3)
    replaced = _drawn(model, start)
    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
    weights = {name: _mixed(leaf, start[name], replaced[name]) if name in replaced else leaf
               for name, leaf in leaves.items()}  # fmt: skip
    model.objectives = ()
    loss = functional_call(model, weights, kwargs=batch)
    of_head = model.of_head()
    apart = sum((leaf - (0 if n in of_head else start[n])).square().sum() for n, leaf in leaves.items())
    total = loss + 0.005 * apart
    wanted = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    _close(found, {"": total.detach(), **{n: g for n, g in zip(leaves, wanted, strict=True) if n in found}}, 1e-6)
    model.objectives = choose_objectives(MIXOUT)
    model.objectives[0].restore_state({name: start[name] for name in replaced})
    own = _values(model)
    torch.manual_seed(3)
    found = gradients(model, batch)
    length = sum(float(found[name].square().sum()) for name in own if name in found) ** 0.5

    def at(far: float) -> float:
        with torch.no_grad():
            for name, weight in model.trained().items():
                weight.copy_(own[name] + far / length * found.get(name, torch.zeros_like(weight)))
        torch.manual_seed(3)
        return float(model(**batch).detach())

    far = 1e-3
    assert (at(far) - at(-far)) / (2 * far) == pytest.approx(length, rel=2e-3)


def test_the_mean_of_the_weights_is_the_weight(tiny_bert: str) -> None:
    model = classifier(tiny_bert, MIXOUT)
    start = _values(model)
    _moved(model)
    batch = batch_of(model)
    step = Step(model, batch, batch.pop("targets"), None, model.objectives)
    (objective,) = model.objectives
    name = next(one for one in start if one not in model.of_head())
    own = step.trained[name].detach().clone()
    apart = (own - start[name]) / (1 - SHARE)
    total, kept, count = torch.zeros_like(own), torch.zeros_like(own), 400
    for _ in range(count):
        with objective.weights(step):
            now = step.trained[name].detach()
            replaced = (now - start[name]).abs() < 1e-6
            torch.testing.assert_close(now, torch.where(replaced, start[name], start[name] + apart))
            total += now
            kept += ~replaced
    assert float(kept.mean()) / count == pytest.approx(1 - SHARE, abs=0.01)
    error = apart.abs() * (SHARE * (1 - SHARE) / count) ** 0.5
    assert bool(((total / count - own).abs() <= 6 * error + 1e-5).all())


@pytest.mark.parametrize(
    "other",
    [
        "fgm",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("pgd", "freelb", "vat", "smart", "r-drop", "neftune", "focal", "supcon")
        ),
    ],
)
def test_all_passes_of_a_step_read_the_same_weights(other: str, tiny_bert: str) -> None:
    """Gradients are those of the other objective alone where the weights are the mixed ones, by the chain rule."""
    model = classifier(tiny_bert, [other, MIXOUT])
    _holds_the_chain_rule(model, lambda: classifier(tiny_bert, other))


def _holds_the_chain_rule(model: TunedModel, alone: Any) -> None:
    start = _values(model)
    _moved(model)
    own, batch = _values(model), batch_of(model)
    torch.manual_seed(3)
    found = gradients(model, batch)
    assert all(torch.equal(weight, own[name]) for name, weight in _values(model).items()), "weights are not put back"
    reference = alone()
    torch.manual_seed(3)
    replaced = _drawn(model, start)
    with torch.no_grad():
        for name, weight in reference.trained().items():
            mixed = name in replaced
            weight.copy_(_mixed(own[name], start[name], replaced[name]) if mixed else own[name])
    # What a method does to the gradient of a weight comes last.
    hooks: dict[str, Any] = {name: weight._backward_hooks or {} for name, weight in reference.trained().items()}
    for weight in reference.trained().values():
        weight._backward_hooks = None
    wanted = gradients(reference, batch)
    for name in wanted:
        if name in replaced:
            wanted[name] = wanted[name] * ~replaced[name] / (1 - SHARE)
        for hook in hooks.get(name, {}).values():
            wanted[name] = hook(wanted[name])
    assert found.keys() == wanted.keys()
    _close(found, wanted, 1e-3)


@pytest.mark.parametrize("variant", ["float32", "int8", "nf4"])
@pytest.mark.parametrize("method", daily(["lora", "prompt"], AVAILABLE))
def test_it_goes_with_every_method(method: str, variant: str, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        model = classifier(tiny_bert, MIXOUT, choice_of(method), variant=variant)
    except ConfigError:
        # what a method can't do at all is told by its own tests
        with pytest.raises(ConfigError):
            classifier(tiny_bert, (), choice_of(method), variant=variant)
        return
    if model.capabilities.trains in ("nothing", "head"):
        return
    model.spec.method.begin(model.transformer, model.spec.config, 10)
    # A penalty is of the weights as they are, so it is left out of both.
    monkeypatch.setattr(type(model.spec.method), "penalty", lambda *given: None)
    _holds_the_chain_rule(model, lambda: classifier(tiny_bert, (), choice_of(method), variant=variant))


def test_layers_that_run_again_in_the_backward_pass_read_the_same_weights(tiny_bert: str) -> None:
    found = []
    options: list[Any] = [False, True, "selective"]
    for given in options:
        model = _moved(classifier(tiny_bert, MIXOUT, gradient_checkpointing=given))
        torch.manual_seed(3)
        found.append(gradients(model, batch_of(model)))
    _close(found[1], found[0])
    _close(found[2], found[0])


def test_with_a_share_of_zero_nothing_changes(tiny_bert: str) -> None:
    found = []
    for objective in ({"name": "mixout", "p": 0.0}, ()):
        model = _moved(classifier(tiny_bert, objective))
        torch.manual_seed(3)
        found.append({**gradients(model, batch_of(model)), "next": torch.rand(1)})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_parts_of_a_batch_have_other_draws_and_evaluation_has_none(tiny_bert: str) -> None:
    model = _moved(classifier(tiny_bert, MIXOUT))
    batch = batch_of(model)
    masks = []
    for _ in range(2):
        found = gradients(model, batch)
        name = next(n for n in found if n and n not in model.of_head())
        masks.append(found[name] == 0)
    assert not torch.equal(masks[0], masks[1])
    model.eval()
    plain = model(**batch)
    model.objectives = ()
    assert torch.equal(model(**batch), plain)


def test_weights_are_put_back_when_a_pass_fails(tiny_bert: str) -> None:
    model = _moved(classifier(tiny_bert, MIXOUT))
    own, batch = _values(model), batch_of(model)
    with pytest.raises(IndexError):
        model(**{**batch, "input_ids": batch["input_ids"] + 10**6})
    assert all(torch.equal(weight, own[name]) for name, weight in _values(model).items())


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_memory_is_planned_within_a_hundredth(method: str, tiny_bert: str) -> None:
    """With gradients of an earlier part of the batch."""
    from pefttools.bases.skeleton import skeleton

    model = classifier(tiny_bert, MIXOUT, method)
    rows, length = 12, 64
    batch = {"input_ids": torch.randint(5, 1000, (rows, length)), "attention_mask": torch.ones(rows, length).long()}
    batch["attention_mask"][0, -1] = 0
    labels = torch.zeros(rows, dtype=torch.long)
    measured = peak_of_step(model, {**batch, "targets": labels}, passes=2)
    planned = Planned(skeleton(tiny_bert), "sequence-classification", method, "float32", 3, CPU, MIXOUT)
    row = planned.row(Shape(batch_size=2 * rows, length=length, precision="float32", accumulation=2))
    (objective,) = model.objectives
    start = sum(tensor.numel() * 4 for tensor in objective.state().values())
    standing = sum(p.numel() * 4 for p in model.parameters()) + row.optimizer_bytes + start
    kept = row.peak_bytes - standing
    assert abs(kept - measured) <= 0.01 * row.peak_bytes, (kept, measured, row)


class TestRefusals:
    def test_a_method_that_trains_the_head_alone(self, tiny_bert: str) -> None:
        with pytest.raises(ConfigError, match="'mixout' has no effect: the method 'head' trains the head alone"):
            pefttools.wrap(tiny_bert, "head", labels=["a", "b"], objective="mixout")

    def test_another_one_that_changes_weights(self) -> None:
        other = type("Other", (Mixout,), {"name": "other"})
        with pytest.raises(ConfigError, match="'mixout' and 'other' can't be used together: both change the trained"):
            check_together([Mixout(MixoutConfig()), other(MixoutConfig())])

    def test_a_share_that_leaves_nothing(self) -> None:
        with pytest.raises(ConfigError, match="less than 1"):
            choose_objectives({"name": "mixout", "p": 1.0})
