"""Small models that are trained with objectives, and batches for them."""

from __future__ import annotations

from typing import Any

import torch

from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.compute.optimizers import make_optimizer
from pefttools.objectives import objectives
from pefttools.recipe import choose_method, choose_objectives, choose_task
from pefttools.tuned import TunedModel
from tests.allocator import peak_of

#: those that need nothing but their defaults
NAMES = [
    name
    for name in objectives
    if not any(field.is_required() for field in objectives.get(name).config.model_fields.values())
]
#: of these, those that do not need a better and a worse answer per row
UNRANKED = [name for name in NAMES if not objectives.get(name).ranks_answers]
TEXTS = ["where is my card", "I lost it", "please send the money back to the old account today", "no"]


def classifier(base: str, objective: Any = (), method: Any = "lora", **options: Any) -> TunedModel:
    """A model of three labels whose adapter has an effect already, in training mode."""
    return _made(base, objective, method, {"name": "sequence-classification"}, ["a", "b", "c"], **options)


def language_model(base: str, objective: Any = (), method: Any = "lora", **options: Any) -> TunedModel:
    """A causal language model, alike."""
    return _made(base, objective, method, {"name": "causal-lm"}, [], **options)


def _made(base: str, objective: Any, method: Any, task: Any, labels: list[str], **options: Any) -> TunedModel:
    chosen, config = choose_method(method)
    model = build(
        locate_base(base), options.pop("variant", "float32"), chosen, config, choose_task(task), labels,
        precision="float32", seed=0, **options,
    )  # fmt: skip
    model.objectives = choose_objectives(objective)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model.train()


def peak_of_step(model: TunedModel, given: dict[str, torch.Tensor], passes: int = 1) -> int:
    """Peak memory of an optimizer step, once its states are there; see `peak_of`.

    Args:
        model: the model.
        given: the batch, and its ``targets``.
        passes: over the same batch.
    """
    trained = list(model.trained().values())
    optimizer = make_optimizer("adamw", trained, 1e-6)

    def step() -> None:
        for _ in range(passes):
            model(**given).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step()
    return peak_of(step)


def batch_of(model: TunedModel, texts: list[str] = TEXTS) -> dict[str, Any]:
    """Texts of different lengths with labels; of a language model the texts are their own."""
    encoded = [{"input_ids": ids} for ids in model.processor(texts)["input_ids"]]
    if model.spec.task.name == "causal-lm":
        examples = [{**one, "labels": one["input_ids"]} for one in encoded]
    else:
        examples = [
            {**one, "attention_mask": [1] * len(one["input_ids"]), "labels": number % 3}
            for number, one in enumerate(encoded)
        ]
    batch = model.spec.task.training_batch(model, examples)
    return {**batch, "targets": batch.pop("labels")}


def gradients(model: TunedModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The loss, and the gradient of each trained parameter, of one pass."""
    model.zero_grad()
    loss = model(**batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"": loss.detach(), **found}
