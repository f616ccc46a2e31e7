"""A few training steps, and what must hold in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.tasks.task import Example
from pefttools.testing.subject import DifferenceError, same_numbers
from pefttools.tuned import TunedModel


def train_a_little(model: TunedModel, examples: Sequence[Example], steps: int = 3, rate: float = 0.02) -> None:
    """A few large steps, so that every part of the state is far from its start.

    Args:
        model: the model to train.
        examples: one batch, the same for every step.
        steps: number of steps.
        rate: the learning rate.
    """
    method = model.spec.method
    if method.capabilities.trains == "nothing":
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    if method.capabilities.trains == "head":
        assert model.count().trainable == model.count().head, "it declares that it trains only the head"
    if method.capabilities.trains != "base":
        assert {p.dtype for p in trained} <= {torch.float32, torch.float64}, "what is trained must be float32"
    batch = model.spec.task.collate(examples, model.processor)
    labels = batch.pop("labels")
    optimizer = torch.optim.AdamW(trained, lr=rate)
    of_method = _of_method(model)
    moved = dict.fromkeys(of_method, False)
    if method.reads_rows(model.spec.config):
        method.prepare(model.transformer, model.spec.config, [lambda: model(**batch, targets=labels)])
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    model.train()
    method.begin(model.transformer, model.spec.config, steps)
    for step in range(1, steps + 1):
        loss = model(**batch, targets=labels)
        assert torch.isfinite(loss), "the loss is not finite"
        loss.backward()
        assert all(p.grad is not None for p in trained), "a trained parameter gets no gradient"
        moved = {name: moved[name] or bool(p.grad.any()) for name, p in of_method.items() if p.grad is not None}
        optimizer.step()
        method.after_step(model.transformer, step)
        optimizer.zero_grad()
    model.eval()
    still = [name for name, value in moved.items() if not value]
    assert len(still) < max(1, len(moved)), f"only the head is trained: no gradient reaches {still[:3]}"
    now = dict(model.named_parameters())
    changed = [name for name, value in frozen.items() if not same_numbers(value, now[name])]
    if changed:
        raise DifferenceError(f"frozen parameters were changed by training: {changed[:3]}")


def _of_method(model: TunedModel) -> dict[str, torch.nn.Parameter]:
    """The trained parameters that are not the task head's."""
    heads = tuple(f".{module}." for module in model.spec.target.head_modules)
    trained = {name: p for name, p in model.transformer.named_parameters() if p.requires_grad}
    return {name: p for name, p in trained.items() if not any(head in f".{name}" for head in heads)}
