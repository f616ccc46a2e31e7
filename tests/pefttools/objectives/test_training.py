"""Trainings with objectives: with every task that can take them, in parts, interrupted, planned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.errors import ConfigError
from pefttools.objectives import Objective, objectives
from pefttools.planning.device import CPU
from pefttools.planning.plan import Planned, Shape
from pefttools.recipe import choose_objectives
from pefttools.tasks import tasks
from tests.interrupted import train_in_two_parts
from tests.methods import AVAILABLE, choice_of, daily
from tests.pefttools.objectives.models import NAMES, batch_of, classifier, gradients, peak_of_step
from tests.pefttools.tasks.samples import SAMPLES, base_of

#: by task, weights after the same training without an objective
PLAIN: dict[str, torch.Tensor] = {}
#: those that draw no numbers, beside FGM
MORE = ("l2-sp", "focal", "pgd", "label-smoothing")
#: the fast ones; all others are slow
OFTEN = {
    ("fgm", "image-classification"), ("freelb", "causal-lm"), ("r-drop", "token-classification"),
    ("vat", "question-answering"), ("fgm", "speech-recognition"), ("supcon", "causal-lm"), ("l2-sp", "multiple-choice"),
    ("fgm", "sentence-embedding"), ("mixout", "sentence-embedding"), ("focal", "regression"),
}  # fmt: skip


def _recipe(task: str, objective: Any, request: pytest.FixtureRequest, folder: Path, **training: Any) -> dict[str, Any]:
    options, rows = SAMPLES[task]
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return {
        "base": base_of(task, request), "method": "lora", "task": {"name": task, **options}, "objective": objective,
        "data": {"train": str(path), "validation": 0.34}, "storage": "float32",
        "training": {"max_steps": 3, "batch_size": 8, "precision": "float32", "evaluations": 1, **training},
        "output": str(folder / "artifact"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(name, task, marks=() if (name, task) in OFTEN else pytest.mark.slow)
        for name in NAMES
        for task in SAMPLES
    ],
)
def test_an_objective_is_trained_with_every_task_or_refused(
    name: str, task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    recipe = _recipe(task, name, request, tmp_path)
    kind, of = objectives.get(name), tasks.get(task)
    why = None
    if of.loss_over_batch and (kind.perturbs or kind.changes_input or kind.compares or kind.replaces_loss):
        why = "whose loss compares all rows of a batch"
    elif kind.ranks_answers and not of.has_preferences:
        why = "needs a better and a worse answer per row"
    elif kind.compares and not of.has_divergence:
        why = "compares the answers of two passes"
    elif kind.shapes_loss and not of.has_outcomes:
        why = "weighs the probabilities of outcomes"
    elif kind.reads_features and of.modality == "image-text":
        why = "by comparing an image with texts"
    elif kind.reads_features and not of.one_label:
        why = "needs one label per row"
    if why is not None:
        with pytest.raises(ConfigError, match=why):
            pefttools.train(recipe)
        assert not (tmp_path / "artifact").exists()
        return
    if (name, task) == ("r-drop", "zero-shot-image-classification"):  # CLIP has no dropout
        with pytest.warns(UserWarning, match="r-drop has no effect"):
            pefttools.train(recipe)
        return
    found = _weights(recipe)
    assert found.isfinite().all()
    if task not in PLAIN:
        PLAIN[task] = _weights({**recipe, "objective": []})
    assert not torch.equal(found, PLAIN[task]), "it has no effect"


def _weights(recipe: dict[str, Any]) -> torch.Tensor:
    stored = pefttools.train(recipe)
    assert stored is not None
    state = load_file(Path(recipe["output"]) / "adapter_model.safetensors")
    shutil.rmtree(recipe["output"])
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.mark.parametrize("name", ["fgm", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_parts_of_a_batch_change_no_weight(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Of those that draw no numbers: each text is perturbed by itself, and a penalty counts once."""
    found = []
    for parts in (1, 4):
        recipe = _recipe("causal-lm", name, request, tmp_path, gradient_accumulation=parts, learning_rate=1e-2)
        recipe["method"] = {"name": "lora", "dropout": 0.0}
        found.append(_weights(recipe))
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("objective", [{"name": "l2-sp", "alpha": 5.0}, pytest.param("mixout", marks=pytest.mark.slow)])
def test_a_training_that_goes_on_ends_as_one_that_was_not_interrupted(
    objective: Any, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place that weights are pulled to, or mixed with, is in the checkpoint."""
    recipe = _recipe("sequence-classification", objective, request, tmp_path, max_steps=6,
                     evaluations=3, learning_rate=1e-2)  # fmt: skip
    whole = _weights(recipe)
    train_in_two_parts(recipe, monkeypatch, until=4)
    state = load_file(Path(recipe["output"]) / "adapter_model.safetensors")
    torch.testing.assert_close(torch.cat([state[name].flatten() for name in sorted(state)]), whole)


def test_its_term_is_in_the_history(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from pefttools.progress import SilentReporter
    from pefttools.recipe import Recipe
    from pefttools.training.fit import fit
    from pefttools.training.prepare import prepare

    recipe = _recipe("sequence-classification", ["fgm", "l2-sp"], request, tmp_path)
    fitted = fit(prepare(Recipe.model_validate(recipe)), SilentReporter(), tmp_path / "work")
    entries = [entry for entry in fitted.history if "loss" in entry]
    assert len(entries) == 3
    for entry in entries:
        assert 0 < entry["fgm"] < entry["loss"] and 0 <= entry["l2-sp"] < entry["loss"]


@pytest.mark.parametrize(
    "objective",
    [
        "fgm", "r-drop", "l2-sp", "supcon", {"name": "self-training", "unlabelled": "more.csv"},
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("pgd", "freelb", "smart", "vat", "neftune", "setfit")
        ),
        pytest.param({"name": "vat", "unlabelled": "more.csv"}, marks=pytest.mark.slow),
        pytest.param({"name": "distillation", "teacher": "somewhere", "hidden": 1.0}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_memory_is_planned_within_a_hundredth(objective: Any, tiny_bert: str) -> None:
    from pefttools.bases.skeleton import skeleton

    model = classifier(tiny_bert, objective)
    rows, length = 24, 96
    batch = {"input_ids": torch.randint(5, 1000, (rows, length)), "attention_mask": torch.ones(rows, length).long()}
    batch["attention_mask"][0, -1] = 0
    labels = torch.zeros(rows, dtype=torch.long)
    measured = peak_of_step(model, {**batch, "targets": labels})
    planned = Planned(skeleton(tiny_bert), "sequence-classification", "lora", "float32", 3, CPU, objective)
    shape = Shape(batch_size=rows, length=length, precision="float32")
    row = planned.row(shape)
    standing = sum(p.numel() * 4 for p in model.parameters()) + row.optimizer_bytes
    kept = row.peak_bytes - standing
    assert abs(kept - measured) <= 0.01 * row.peak_bytes, (kept, measured, row)


@pytest.mark.parametrize("variant", ["float32", "int8", "nf4"])
@pytest.mark.parametrize("method", daily(["lora", "prompt"], AVAILABLE))
def test_adversarial_training_goes_with_every_method(method: str, variant: str, tiny_bert: str) -> None:
    """Gradients flow through what each method, and each variant, does to the layers below it.

    By a short step: with weights as random as these some methods bend the loss within a tenth of a text's norm.
    """
    short = {"name": "fgm", "epsilon": 1e-3}
    try:
        model = classifier(tiny_bert, short, choice_of(method), variant=variant)
    except ConfigError:
        # what a method can't do at all is told by its own tests
        with pytest.raises(ConfigError):
            classifier(tiny_bert, (), choice_of(method), variant=variant)
        return
    if method == "untuned":
        return
    batch = batch_of(model)
    model.spec.method.begin(model.transformer, model.spec.config, 10)
    found = gradients(model, batch)
    attack, count = model.terms["fgm"]
    penalty = model.spec.method.penalty(model.transformer, model.spec.config)
    plain = float(found[""]) - float(attack) - (0.0 if penalty is None else float(penalty))
    assert count == 1 and float(attack) > plain, "the attack does not raise the loss"
    assert all(value.isfinite().all() for value in found.values())


def test_a_loop_of_ones_own(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], objective={"name": "fgm", "epsilon": 0.05})
    batch = model.task.training_batch(model, [{"input_ids": [5, 6], "attention_mask": [1, 1], "labels": 1}] * 2)
    targets = batch.pop("labels")
    model.eval()
    plain = float(model(**batch, targets=targets))
    model.train()
    assert float(model(**batch, targets=targets)) > 1.5 * plain and "fgm" in model.terms
    with pytest.raises(ConfigError, match="reads more than a batch"):
        pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], objective={"name": "vat", "unlabelled": "rows.csv"})


class TestRefusals:
    def test_two_that_replace_the_loss(self) -> None:
        with pytest.raises(ConfigError, match="'r-drop' and 'freelb' can't be used together: both replace the task"):
            choose_objectives(["r-drop", "freelb"])

    def test_one_that_is_given_twice(self) -> None:
        with pytest.raises(ConfigError, match="'fgm' is given twice"):
            choose_objectives(["fgm", {"name": "fgm", "epsilon": 0.2}])

    def test_a_name_that_is_near(self) -> None:
        with pytest.raises(ConfigError, match="unknown objective 'rdrop'"):
            choose_objectives("rdrop")

    def test_a_method_that_trains_nothing(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        recipe = {**_recipe("sequence-classification", "fgm", request, tmp_path), "method": "untuned"}
        with pytest.raises(ConfigError, match="'untuned' trains nothing"):
            pefttools.train(recipe)

    def test_options_of_the_task_that_would_be_lost(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        recipe = _recipe("sequence-classification", "focal", request, tmp_path)
        recipe["task"] |= {"label_smoothing": 0.1}
        with pytest.raises(ConfigError, match=r"task\.label_smoothing"):
            pefttools.train(recipe)


def test_each_says_what_it_is() -> None:
    for name in objectives:
        kind: type[Objective[Any]] = objectives.get(name)
        assert (
            kind.name == name
            and kind.summary
            and kind.paper.startswith("https://")
            and "References:" in (kind.__doc__ or "")
        )
