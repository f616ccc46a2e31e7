"""Gradients of each objective: as autograd gives them for the whole sum, whatever saves memory or time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pefttools.objectives.gradients import Collected
from pefttools.objectives.inputs import input_embeddings
from pefttools.objectives.perturbation import Perturbation, drawn_apart
from pefttools.objectives.step import Step
from pefttools.tuned import TunedModel
from tests.pefttools.objectives.models import TEXTS, UNRANKED, batch_of, classifier, gradients, language_model


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((found[name] - value).abs().max()) <= tolerance * scale, name


def test_collected_gradients_are_those_of_the_sum() -> None:
    torch.manual_seed(0)
    weight, idle, read = (torch.randn(3, requires_grad=True) for _ in range(3))
    losses = [((weight * (number + 1) + read) ** 2).sum() for number in range(3)]
    wanted = torch.autograd.grad(sum(losses), [weight, read])  # type: ignore[arg-type]
    collected = Collected([weight, idle], scale=64.0)
    losses = [((weight * (number + 1) + read) ** 2).sum() for number in range(3)]
    slopes = [collected.add(loss, read)[0] for loss in losses]
    total = collected.total()
    torch.testing.assert_close(total, sum(losses))
    (5 * total).backward()
    assert weight.grad is not None and idle.grad is None
    torch.testing.assert_close(weight.grad, 5 * wanted[0])
    torch.testing.assert_close(sum(slopes) / 64.0, wanted[1])


def test_what_a_method_does_to_a_gradient_is_done_once() -> None:
    weight = torch.ones(2, requires_grad=True)
    handle = weight.register_hook(lambda gradient: 3 * gradient)
    collected = Collected([weight])
    collected.add((2 * weight).sum())
    outer = Collected([weight])
    outer.add(collected.total())
    outer.total().backward()
    assert weight.grad is not None and weight.grad.tolist() == [6.0, 6.0]
    handle.remove()
    weight.sum().backward()
    assert weight.grad.tolist() == [7.0, 7.0]


class _Reference:
    """The model's loss as a function of what is added to its embeddings, by nothing but torch."""

    def __init__(self, model: TunedModel, batch: dict[str, Any]) -> None:
        self.model = model
        self.batch = {name: value for name, value in batch.items() if name != "targets"}
        self.targets = batch["targets"]
        layer = input_embeddings(model.transformer)
        self.read = layer(self.batch["input_ids"]).detach() * self.batch["attention_mask"][..., None]
        self.sizes = self.read.flatten(1).norm(dim=1)[:, None, None]

    def logits(self, added: torch.Tensor | None = None) -> torch.Tensor:
        layer = input_embeddings(self.model.transformer)
        handle = layer.register_forward_hook(lambda m, a, output: output if added is None else output + added)
        try:
            return self.model.task.logits(self.model.transformer, self.model.head, dict(self.batch))
        finally:
            handle.remove()

    def loss(self, added: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.logits(added), self.targets)

    def way(self, of: Any, at: torch.Tensor) -> torch.Tensor:
        """The unit vectors, one per text, of a function's gradient at a place."""
        at = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of(at), at)
        return self.unit(slope)

    def unit(self, values: torch.Tensor) -> torch.Tensor:
        values = values * self.batch["attention_mask"][..., None]
        return values / values.flatten(1).norm(dim=1)[:, None, None]

    def kl(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        a, b = one.log_softmax(-1), other.log_softmax(-1)
        return (a.exp() * (a - b)).sum(-1).mean()

    def within(self, added: torch.Tensor, epsilon: float) -> torch.Tensor:
        long = added.flatten(1).norm(dim=1)[:, None, None]
        return added * (epsilon * self.sizes / long).clamp(max=1)


def _fgm(of: _Reference) -> torch.Tensor:
    added = 0.1 * of.sizes * of.way(of.loss, torch.zeros_like(of.read))
    return of.loss() + of.loss(added)


def _pgd(of: _Reference) -> torch.Tensor:
    added = torch.zeros_like(of.read)
    for _ in range(3):
        added = of.within(added + 0.05 * of.sizes * of.way(of.loss, added), 0.1)
    return of.loss() + of.loss(added)


def _freelb(of: _Reference) -> torch.Tensor:
    count = of.batch["attention_mask"].sum(1)[:, None, None] * of.read.shape[-1]
    with drawn_apart(of.read):
        noise = torch.empty_like(of.read).uniform_(-1, 1) * of.batch["attention_mask"][..., None]
    added, total = 0.1 * of.sizes / count.sqrt() * noise, torch.zeros(())
    for _ in range(3):
        total = total + of.loss(added) / 3
        added = of.within(added + 0.05 * of.sizes * of.way(of.loss, added), 0.1)
    return total


def _vat(of: _Reference) -> torch.Tensor:
    fixed = of.logits().detach()
    with drawn_apart(of.read):
        first = 0.01 * of.sizes * of.unit(torch.randn_like(of.read))
    added = 0.1 * of.sizes * of.way(lambda at: of.kl(fixed, of.logits(at)), first)
    return of.loss() + of.kl(fixed, of.logits(added))


def _smart(of: _Reference) -> torch.Tensor:
    def both(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return of.kl(one, other) + of.kl(other, one)

    plain = of.logits()
    count = of.batch["attention_mask"].sum(1)[:, None, None] * of.read.shape[-1]
    with drawn_apart(of.read):
        noise = torch.randn_like(of.read) * of.batch["attention_mask"][..., None]
    first = 1e-3 * of.sizes / count.sqrt() * noise
    way = of.way(lambda at: both(plain.detach(), of.logits(at)), first)
    added = of.within(first + 0.15 * of.sizes * way, 0.1)
    return of.loss() + both(plain, of.logits(added))


def _focal(of: _Reference) -> torch.Tensor:
    right = of.logits().softmax(-1)[range(len(of.targets)), of.targets]
    return (-((1 - right) ** 2) * right.log()).mean()


def _label_smoothing(of: _Reference) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(of.logits(), of.targets, label_smoothing=0.1)


def _supcon(of: _Reference) -> torch.Tensor:
    return of.loss() + _contrast(of, 0.3)


def _contrast(of: _Reference, temperature: float) -> torch.Tensor:
    """Row by row, as the formula is written."""
    read: list[torch.Tensor] = []
    layers = [m for m in of.model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 3]
    handles = [layer.register_forward_pre_hook(lambda m, args: read.append(args[0])) for layer in layers]
    of.loss()
    for handle in handles:
        handle.remove()
    vectors = read[0] / read[0].norm(dim=1, keepdim=True)
    terms = []
    for i, label in enumerate(of.targets):
        others = [j for j in range(len(vectors)) if j != i]
        total = sum((vectors[i] @ vectors[j] / temperature).exp() for j in others)
        alike = [j for j in others if of.targets[j] == label]
        if alike:
            each = [-((vectors[i] @ vectors[p] / temperature).exp() / total).log() for p in alike]
            terms.append(sum(each) / len(each))
    return sum(terms) / len(terms)  # type: ignore[return-value]


def _setfit(of: _Reference) -> torch.Tensor:
    return (_contrast(of, 0.05) + of.loss()) / 2


REFERENCES = {
    "supcon": _supcon,
    "setfit": _setfit,
    "label-smoothing": _label_smoothing,
    "fgm": _fgm,
    "pgd": _pgd,
    "freelb": _freelb,
    "vat": _vat,
    "smart": _smart,
    "focal": _focal,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_loss_and_gradients_are_those_of_the_papers_formula(name: str, tiny_bert: str) -> None:
    model = classifier(tiny_bert, name)
    _without_dropout(model)
    batch = batch_of(model)
    torch.manual_seed(3)
    found = gradients(model, batch)
    torch.manual_seed(3)
    loss = REFERENCES[name](_Reference(model, batch))
    model.zero_grad()
    loss.backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    _same(found, {"": loss.detach(), **wanted})


def _without_dropout(model: TunedModel) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.transformer.config.attention_probs_dropout_prob = 0.0  # type: ignore[union-attr]
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0  # type: ignore[assignment]


@pytest.mark.parametrize("name", UNRANKED)
def test_activations_that_are_recomputed_in_part_change_nothing(name: str, tiny_bert: str) -> None:
    found = []
    options: list[Any] = [False, "selective"]
    for given in options:
        model = classifier(tiny_bert, name, gradient_checkpointing=given)
        torch.manual_seed(3)
        found.append(gradients(model, batch_of(model)))
    _same(found[1], found[0])


@pytest.mark.filterwarnings("ignore:r-drop has no effect")
@pytest.mark.parametrize(
    "name",
    [name for name in UNRANKED if name not in ("freelb", "vat", "smart", "neftune", "supcon", "setfit", "mixout")],
)
def test_texts_behind_each_other_change_nothing(name: str, tiny_llama: str) -> None:
    """Of those that draw no numbers, whose order is another one there, and that are for tokens too."""
    model = language_model(tiny_llama, name)
    _without_dropout(model)
    padded = model.task.collate(
        [{"input_ids": ids, "labels": ids} for ids in model.processor(TEXTS)["input_ids"]], model.processor
    )
    packed = batch_of(model)
    assert packed["attention_mask"].dim() == 4, "nothing is packed"
    wanted = gradients(model, {**padded, "targets": padded.pop("labels")})
    _same(gradients(model, packed), wanted, 1e-3)


def test_the_dropout_of_all_passes_is_the_same_and_of_r_drop_another(tiny_bert: str) -> None:
    model = classifier(tiny_bert, ["l2-sp", "fgm"])
    batch = batch_of(model)
    step = Step(model, {n: v for n, v in batch.items() if n != "targets"}, batch["targets"], None, ())
    first = step.run().loss
    assert torch.equal(step.run().loss, first)
    after = torch.rand(())
    assert not torch.equal(step.run(same_dropout=False).loss, first)
    assert not torch.equal(torch.rand(()), after)


def test_a_change_that_begins_at_random_has_no_other_dropout_and_is_new_in_each_step(tiny_bert: str) -> None:
    model = classifier(tiny_bert, ["l2-sp", "fgm"])
    batch = batch_of(model)
    inputs = {n: v for n, v in batch.items() if n != "targets"}
    noises = []
    for _ in range(2):
        step = Step(model, inputs, batch["targets"], None, ())
        plain = step.run().loss

        def none(read: torch.Tensor) -> torch.Tensor:
            noises.append(torch.randn_like(read))
            return 0 * noises[-1]

        assert torch.equal(step.run(Perturbation(none)).loss, plain)
    assert not torch.equal(*noises)


def test_an_attack_raises_the_loss_more_than_noise_of_its_size(tiny_bert: str) -> None:
    model = classifier(tiny_bert, "fgm").eval()
    batch = batch_of(model)
    of = _Reference(model, batch)
    plain = float(of.loss().detach())
    with torch.no_grad():
        torch.manual_seed(0)
        noise = [float(of.loss(0.1 * of.sizes * of.unit(torch.randn_like(of.read)))) - plain for _ in range(20)]
    model.train()
    _without_dropout(model)
    model(**batch)
    attack, _ = model.terms["fgm"]
    assert float(attack) - plain > 3 * max(noise)
