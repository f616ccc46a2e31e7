"""Contrastive tuning with a logistic head."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import pefttools
from pefttools.objectives.setfit import SetFit, SetFitConfig
from pefttools.recipe import Recipe
from pefttools.training.head import features_of, fit_head, head_layer
from pefttools.training.prepare import build_model, prepare
from pefttools.training.sampler import LengthWindowSampler, company
from tests.conftest import INTENTS, MINILM


@pytest.mark.parametrize("labels", [3, 2])
def test_the_head_is_scikit_learns_logistic_regression(labels: int) -> None:
    """Of features of one length its probabilities are the library's; a label without rows has none."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 8))
    vectors *= 3 / np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.arange(60) % labels
    layer = torch.nn.Linear(8, labels + 1)
    features, targets = torch.tensor(vectors, dtype=torch.float32), torch.tensor(numbers)
    SetFit(SetFitConfig(c=2.0)).fit_head(layer, features, targets)
    wanted = LogisticRegression(C=2.0, max_iter=1000).fit(vectors / 3, numbers).predict_proba(vectors / 3)
    found = layer(features).softmax(-1).detach().numpy()
    np.testing.assert_allclose(found[:, :labels], wanted, atol=1e-4)
    assert found[:, labels].max() < 1e-20


def _recipe(intents: dict[str, str], output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "base": MINILM, "method": "lora", "objective": "setfit", "data": {**intents, "limit": {"train": "6 per class"}},
        "training": {"epochs": 2, "batch_size": 12, "precision": "float32"}, "output": str(output), **fields,
    }  # fmt: skip


@pytest.mark.slow
def test_what_is_stored_has_that_head_and_answers_well(intents: dict[str, str], tmp_path: Path) -> None:
    recipe = _recipe(intents, tmp_path / "artifact", storage="float32")
    stored = pefttools.train(recipe)
    assert stored is not None and stored.test is not None
    assert stored.test.metrics["accuracy"] > 0.85
    prepared = prepare(Recipe.model_validate({**recipe, "output": str(tmp_path / "other")}))
    model = stored.model
    layer = head_layer(model)
    before = layer.weight.detach().clone()
    examples = prepared.examples.train
    features = features_of(model, layer, examples, 64)
    SetFit(SetFitConfig()).fit_head(layer, features, torch.tensor([one["labels"] for one in examples]))
    torch.testing.assert_close(layer.weight.detach(), before, atol=1e-3, rtol=1e-3)


def test_nothing_else_is_fitted(intents: dict[str, str], tmp_path: Path) -> None:
    prepared = prepare(Recipe.model_validate(_recipe(intents, tmp_path / "artifact", objective="supcon")))
    model = build_model(prepared)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit_head(model, prepared.examples.train, 64)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_batch_has_pairs_of_labels(intents: dict[str, str], tmp_path: Path) -> None:
    prepared = prepare(Recipe.model_validate(_recipe(intents, tmp_path / "artifact")))
    examples, task = prepared.examples.train, prepared.task
    together, apart = company(task, examples, by_label=True)
    assert together == [one["labels"] for one in examples] and apart is None
    assert company(task, examples) == (None, None)
    order = list(LengthWindowSampler(task.sizes(examples), 12, seed=0, together=together))
    assert sorted(order) == list(range(len(INTENTS) * 6))
    for start in range(0, len(order), 12):
        counts = Counter(examples[index]["labels"] for index in order[start : start + 12])
        assert all(count % 2 == 0 for count in counts.values())
