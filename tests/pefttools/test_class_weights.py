"""Class weights and label smoothing: the loss is that of torch, the weights are those of scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.recipe import Recipe, choose_task
from pefttools.training.prepare import prepare
from tests.conftest import INTENTS


def _task(**options: Any) -> Any:
    return choose_task({"name": "sequence-classification", **options})


def _table(labels: str) -> Table:
    rows = [{"text": "x", "label": label} for label in labels]
    return Table("here", rows, {"text": "text", "label": "label"}, range(1, len(rows) + 1))


def test_balanced_is_what_scikit_learn_calls_so() -> None:
    labels = "aaaaaabbc"
    task = _task(class_weights="balanced").settled(_table(labels), ["a", "b", "c"])
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(list(labels)))
    assert list(task.options.class_weights.values()) == pytest.approx(expected.tolist())
    # They go into the manifest as numbers, and a label that no training row has is not a hindrance.
    more = _task(class_weights="balanced").settled(_table(labels), ["a", "b", "c", "d"])
    assert more.options.class_weights == {**task.options.class_weights, "d": 1.0}


def test_effective_numbers_of_rows() -> None:
    """As in the paper: sums of a geometric series, scaled so that the weights of all labels add up to their number."""
    labels = "a" * 500 + "b" * 20 + "c"
    found = _task(class_weights="effective").settled(_table(labels), ["a", "b", "c", "d"]).options.class_weights
    effective = {name: sum(0.999**n for n in range(labels.count(name))) for name in "abc"}
    scale = 3 / sum(1 / one for one in effective.values())
    assert found == pytest.approx({**{name: scale / one for name, one in effective.items()}, "d": 1.0})


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, {"c": 5.0, "a": 0.5, "b": 1.0}])
def test_the_loss_is_torchs(smoothing: float, weights: dict[str, float] | None) -> None:
    task = _task(class_weights=weights, label_smoothing=smoothing).settled(_table("abc"), ["a", "b", "c"])
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2, 0, 0])
    in_order = None if weights is None else torch.tensor([0.5, 1.0, 5.0])
    one_by_one = torch.nn.functional.cross_entropy(
        logits, labels, in_order, reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(task.loss(logits, labels), one_by_one.mean())
    torch.testing.assert_close(task.loss(logits, labels, 12), one_by_one.sum() / 12)


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"a": 1.0}, "'b' has no weight"), ({"a": 1.0, "b": 1.0, "z": 1.0}, "'z' is not a label")],
)
def test_weights_that_do_not_fit_the_labels_are_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _task(class_weights=weights).settled(_table("ab"), ["a", "b"])
    with pytest.raises(ConfigError, match="class_weights"):
        _task(class_weights={"a": -1.0})


def test_a_loop_of_ones_own_does_not_lose_them_silently(tiny_bert: str) -> None:
    task = {"name": "sequence-classification", "head": "mean", "class_weights": "balanced"}
    model = pefttools.wrap(tiny_bert, "lora", task=task, labels=["a", "b"])
    with pytest.raises(ConfigError, match="weight the loss of the logits yourself"):
        model(input_ids=torch.tensor([[5]]), attention_mask=torch.tensor([[1]]), targets=torch.tensor([0]))


def test_other_tasks_refuse_them_by_name() -> None:
    with pytest.raises(ConfigError, match="label_smoothing: no such field"):
        choose_task({"name": "causal-lm", "label_smoothing": 0.1})


def test_weights_help_a_rare_label_and_reach_the_artifact(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    from pefttools.planning.device import CPU
    from pefttools.training.predicted import training_bytes

    with Path(intents["train"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rare = [row for row in rows if row["label"] == INTENTS[0]][:4]
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows([*rare, *(row for row in rows if row["label"] != INTENTS[0])])
    recipe = {
        "base": tiny_bert,
        "method": "head",
        "data": {"train": str(path), "validation": intents["validation"]},
        "task": {"name": "sequence-classification", "head": "mean", "class_weights": "balanced"},
        "training": {"epochs": 1, "batch_size": 16},
        "output": str(tmp_path / "a"),
    }
    prepared = prepare(Recipe.model_validate(recipe))
    assert training_bytes(prepared, CPU, [prepared.examples.train[0]]) > 0
    stored = pefttools.train(recipe)
    assert stored is not None
    weights = stored.manifest.task.config["class_weights"]
    assert list(weights) == sorted(INTENTS) and weights[INTENTS[0]] == max(weights.values())
    again = pefttools.evaluate(tmp_path / "a", intents["validation"])
    assert again.metrics == stored.validation.metrics
