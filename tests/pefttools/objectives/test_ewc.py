"""What was learned before is held by elastic weight consolidation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError
from pefttools.recipe import Recipe
from pefttools.training.prepare import build_model, prepare
from pefttools.training.resume import made_from
from pefttools.training.shown import loss_of, remember
from tests.conftest import MINILM

#: two domains with the same labels, of which the second is learned after the first
FIRST = {
    "where is my card": "urgent", "my card is lost": "urgent", "my card was stolen": "urgent",
    "what does a card cost": "later", "which colours of cards are there": "later", "cards for my family": "later",
}  # fmt: skip
SECOND = {
    "my account is empty": "later", "my account was hacked": "later", "money is missing from my account": "later",
    "what is a savings account": "urgent", "which accounts are there": "urgent", "an account for my son": "urgent",
}  # fmt: skip
LABELS = ["urgent", "later"]


def _file(path: Path, rows: dict[str, str]) -> str:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(list(rows.items()) * 2)
    return str(path)


def _recipe(base: str, rows: str, output: Path, **fields: Any) -> dict[str, Any]:
    return {
        "base": base, "method": {"name": "lora", "dropout": 0.0},
        "task": {"name": "sequence-classification", "labels": LABELS},
        "data": {"train": rows, "validation": rows}, "storage": "float32", "output": str(output),
        "training": {"epochs": 10, "batch_size": 6, "precision": "float32", "learning_rate": 3e-3, "keep_best": False},
        **fields,
    }  # fmt: skip


def _right(artifact: Path, rows: dict[str, str]) -> int:
    found = pefttools.predict(artifact, list(rows))
    return sum(one["prediction"] == label for one, label in zip(found, rows.values(), strict=True))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An artifact that knows the first labels, and its rows."""
    folder = tmp_path_factory.mktemp("first")
    rows = _file(folder / "rows.csv", FIRST)
    pefttools.train(_recipe(MINILM, rows, folder / "artifact"))
    assert _right(folder / "artifact", FIRST) == 6
    return folder / "artifact", rows


@pytest.mark.slow
def test_an_old_domain_is_forgotten_without_it_and_kept_with_it(first: tuple[Path, str], tmp_path: Path) -> None:
    artifact, old = first
    new = _file(tmp_path / "rows.csv", SECOND)
    kept = {}
    for name, objective in (("plain", []), ("held", {"name": "ewc", "rows": old})):
        recipe = _recipe(MINILM, new, tmp_path / name, objective=objective, **{"from": str(artifact)})
        pefttools.train(recipe)
        kept[name] = _right(tmp_path / name, FIRST), _right(tmp_path / name, SECOND)
    assert kept["plain"][0] <= 4, f"nothing is forgotten: {kept}"
    assert kept["held"][0] >= kept["plain"][0] + 2, kept
    assert kept["held"][1] >= 5, f"nothing new is learned: {kept}"


def test_the_fisher_information_is_that_of_single_rows(first: tuple[Path, str], tmp_path: Path) -> None:
    artifact, old = first
    objective = {"name": "ewc", "rows": old, "limit": 5, "strength": 2.0}
    recipe = _recipe(MINILM, old, tmp_path / "a", objective=objective, **{"from": str(artifact)})
    prepared = prepare(Recipe.model_validate(recipe))
    (table,) = prepared.old_rows
    assert table is not None and len(table) == 5
    assert made_from(prepared)["old rows 1"] == prepared.digests()["old rows 1"] == table.digest()
    model = build_model(prepared).train()
    remember(prepared, model)
    assert model.training
    wanted = {name: torch.zeros_like(p) for name, p in model.trained().items()}
    model.eval()
    for row in prepared.task.encode(table, model.processor, prepared.labels):
        model.zero_grad()
        loss_of(model, [row]).backward()
        for name, p in model.trained().items():
            if p.grad is not None:
                wanted[name] += p.grad**2 / 5
    mean = torch.cat([fisher.flatten() for fisher in wanted.values()]).mean()
    start = {name: p.detach().clone() for name, p in model.trained().items()}
    with torch.no_grad():
        for p in model.trained().values():
            p.add_(0.1 * torch.randn_like(p))
    batch = model.task.training_batch(model, prepared.examples.train[:4])
    model.train()
    model(**batch, targets=batch.pop("labels"))
    term, _ = model.terms["ewc"]
    distance = sum(((p - start[n]) ** 2 * wanted[n] / mean).sum() for n, p in model.trained().items())
    torch.testing.assert_close(term, torch.as_tensor(distance).detach())
    assert float(term) > 0


def test_a_training_that_starts_anew_is_refused(first: tuple[Path, str], tmp_path: Path) -> None:
    _, old = first
    with pytest.raises(ConfigError, match="keeps what was learned before, and this training starts anew"):
        pefttools.train(_recipe(MINILM, old, tmp_path / "a", objective={"name": "ewc", "rows": old}))
