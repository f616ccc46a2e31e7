"""A model under an attack: each row's loss rises, whatever its neighbours are, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.errors import ConfigError
from pefttools.objectives.fgm import FGM, FGMConfig
from pefttools.objectives.objective import Objective
from pefttools.objectives.pgd import PGD, PGDConfig
from pefttools.recipe import choose_method, choose_task
from pefttools.robustness.attacked import AttackedModel
from pefttools.tuned import TunedModel
from tests.pefttools.objectives.models import TEXTS, classifier

ATTACKS: list[Any] = [
    (FGM, FGMConfig, {}), (PGD, PGDConfig, {}), (PGD, PGDConfig, {"norm": "linf", "steps": 2}),
]  # fmt: skip


def examples_of(model: TunedModel, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": number % 3}
        for number, ids in enumerate(model.processor(texts)["input_ids"])
    ]


def losses(model: Any, examples: list[dict[str, Any]]) -> torch.Tensor:
    labels = torch.tensor([one["labels"] for one in examples])
    return torch.nn.functional.cross_entropy(model.run(examples), labels, reduction="none")


def attack(kind: type[Objective[Any]], config: Any, epsilon: float, **options: Any) -> Objective[Any]:
    return kind(config(epsilon=epsilon, **options))


@pytest.mark.parametrize("method", ["lora", "prompt"])
@pytest.mark.parametrize(("kind", "config", "options"), ATTACKS)
def test_the_loss_of_every_row_rises_with_epsilon(
    kind: Any, config: Any, options: Any, method: str, tiny_bert: str
) -> None:
    model = classifier(tiny_bert, method=method)
    examples = examples_of(model)
    before = losses(model, examples)
    for epsilon in (1e-3, 1e-2, 5e-2):
        found = losses(AttackedModel(model, attack(kind, config, epsilon, **options)), examples)
        assert (found > before).all(), (epsilon, found - before)
        before = found


@pytest.mark.parametrize(("kind", "config", "options"), ATTACKS)
def test_without_a_size_it_is_the_plain_model(kind: Any, config: Any, options: Any, tiny_bert: str) -> None:
    model = classifier(tiny_bert)
    nothing = kind(config.model_construct(epsilon=0.0, steps=2, step_size=None, norm=options.get("norm", "l2")))
    examples = examples_of(model)
    assert torch.equal(AttackedModel(model, nothing).run(examples), model.run(examples))


@pytest.mark.parametrize(("kind", "config", "options"), ATTACKS)
def test_a_row_is_attacked_as_it_is_alone(kind: Any, config: Any, options: Any, tiny_bert: str) -> None:
    model = classifier(tiny_bert)
    attacked = AttackedModel(model, attack(kind, config, 0.1, **options))
    examples = examples_of(model)
    together = attacked.run(examples)
    assert float((together - model.run(examples)).abs().max()) > 0.05
    for number, example in enumerate(examples):
        torch.testing.assert_close(attacked.run([example])[0], together[number], atol=1e-4, rtol=1e-4)
        with_long = attacked.run([example, {**examples[2], "labels": 1}])[0]
        torch.testing.assert_close(with_long, together[number], atol=1e-4, rtol=1e-4)


def test_the_model_is_as_it_was(tiny_bert: str) -> None:
    model = classifier(tiny_bert).train()
    examples, trained = examples_of(model), set(model.trained())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain, state = model.run(examples), torch.get_rng_state()
    AttackedModel(model, attack(PGD, PGDConfig, 0.3)).run(examples)
    assert model.training and set(model.trained()) == trained and trained
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in model.named_parameters())
    assert torch.equal(model.run(examples), plain) and torch.equal(torch.get_rng_state(), state)


def test_several_steps_do_more_harm_than_one_of_the_same_size(tiny_bert: str) -> None:
    model = classifier(tiny_bert)
    examples = examples_of(model)
    one = losses(AttackedModel(model, attack(FGM, FGMConfig, 0.5)), examples).mean()
    several = losses(AttackedModel(model, attack(PGD, PGDConfig, 0.5, steps=10)), examples).mean()
    assert several > one


def test_rows_without_labels_are_refused(tiny_bert: str) -> None:
    model = classifier(tiny_bert)
    unlabelled = [{name: one for name, one in example.items() if name != "labels"} for example in examples_of(model)]
    attacked = AttackedModel(model, attack(FGM, FGMConfig, 0.1))
    with pytest.raises(ConfigError, match="its own label"):
        attacked.run(unlabelled)


def test_weights_of_classes_and_groups_are_no_obstacle(tiny_bert: str) -> None:
    """Both are worked out on training rows, which an artifact does not have."""
    method, config = choose_method("lora")
    labels = ["a", "b", "c", "d"]
    given = {"class_weights": dict.fromkeys(labels, 2.0), "among": [["a", "b"], ["c", "d"]]}
    task = choose_task({"name": "sequence-classification", **given})
    model = build(locate_base(tiny_bert), "float32", method, config, task, labels, precision="float32", seed=0)
    found = AttackedModel(model, attack(FGM, FGMConfig, 0.1)).run(examples_of(model))
    assert found.isfinite().all()


def test_pixels_are_moved_as_embeddings_are(tiny_vit: str) -> None:
    method, config = choose_method("lora")
    task = choose_task("image-classification")
    model = build(locate_base(tiny_vit), "float32", method, config, task, ["a", "b"], precision="float32", seed=0)
    size: int = model.transformer.config.image_size  # type: ignore[union-attr,assignment]
    labels = torch.tensor([0, 1, 1])
    batch = {"pixel_values": torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)), "labels": labels}
    plain = model.run_batch({"pixel_values": batch["pixel_values"]})
    found = AttackedModel(model, attack(FGM, FGMConfig, 1e-2)).run_batch(batch)
    before, after = (torch.nn.functional.cross_entropy(one, labels, reduction="none") for one in (plain, found))
    assert (after > before).all()
