"""What the best model is: the chosen metric, early stopping, and whether anything was learned."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.tasks import Evaluation, tasks
from pefttools.tasks.labels.one_label import ClassPrediction
from pefttools.training.fit import Fitted, fit
from pefttools.training.learning import mean_loss, why_not_learned
from pefttools.training.prepare import prepare
from pefttools.training.selection import Selection, choose_selection
from tests.conftest import MINILM
from tests.pefttools.test_resume import Told


def _recipe(base: str, data: dict[str, Any], output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": base,
        "method": {"name": "lora", "r": 4},
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(data),
        "training": {"epochs": 2, "batch_size": 16},
        "output": str(output),
        **changes,
    }


def _fit(recipe: dict[str, Any], work: Path) -> Fitted:
    return fit(prepare(Recipe.model_validate(recipe)), SilentReporter(), work)


@pytest.mark.slow  # with the default metric see `test_training`
@pytest.mark.parametrize(("metric", "best"), [("loss", min), ("f1_macro", max)])
def test_the_chosen_metric_keeps_the_best_state(
    tmp_path: Path, intents: dict[str, str], metric: str, best: Any
) -> None:
    # A head that learns too fast is right more often the later, but ever more sure where it is wrong.
    training = {"epochs": 3, "batch_size": 16, "evaluations": 8, "head_learning_rate": 1.0}
    fitted = _fit(_recipe(MINILM, intents, tmp_path / "a", selection={"metric": metric}, training=training), tmp_path)
    values = {int(e["step"]): e[f"eval_{metric}"] for e in fitted.history if f"eval_{metric}" in e}
    assert values[fitted.best_step] == best(values.values())
    assert fitted.validation.metrics[metric] == pytest.approx(best(values.values()), rel=1e-5)


@pytest.mark.parametrize(
    ("config", "better"),
    [({}, True), ({"metric": "loss"}, False), ({"metric": "f1_macro"}, True),
     ({"metric": "loss", "greater_is_better": True}, True)],
)  # fmt: skip
def test_which_way_is_better_is_known(config: dict[str, Any], better: bool) -> None:
    recipe = Recipe.model_validate({"base": "b", "method": "lora", "data": {"train": "t"}, "selection": config})
    chosen = choose_selection(recipe.selection, recipe.chosen_task())
    assert chosen.metric == config.get("metric", "accuracy") and chosen.greater_is_better == better
    assert chosen.score({chosen.metric: math.nan}) == -math.inf


def test_an_unknown_metric_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe = _recipe("./no/such", {"train": "./no/such.csv"}, tmp_path / "a", selection={"metric": "f1_makro"})
    with pytest.raises(UnknownNameError, match=r"unknown metric 'f1_makro' in selection\.metric") as caught:
        pefttools.train(recipe)
    assert "f1_macro" in (caught.value.hint or "")
    for name in ("f1", "balanced_accuracy"):  # not measured unless it is asked for
        with pytest.raises(UnknownNameError, match=f"unknown metric '{name}'"):
            pefttools.train({**recipe, "selection": {"metric": name}})
    own = {"name": "sequence-classification", "metrics": ["./my_metric.py"]}
    recipe |= {"task": own, "selection": {"metric": "./my_metric.py"}}
    with pytest.raises(ConfigError, match="not known which way"):
        pefttools.train(recipe)


_SCRIPT = """
import datasets
import evaluate

class Shouting(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"wrong": sum(p != r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.mark.parametrize(
    ("metrics", "selection", "better"),
    [
        (["balanced_accuracy"], {"metric": "balanced_accuracy"}, True),
        (["matthews_correlation"], {"metric": "matthews_correlation"}, True),
        ([{"name": "f1", "average": "micro"}], {"metric": "f1_micro"}, True),
        (["SCRIPT"], {"metric": "wrong", "greater_is_better": False}, False),
    ],
)
def test_every_metric_of_the_task_can_choose(
    metrics: list[Any], selection: dict[str, Any], better: bool, tiny_bert: str, tmp_path: Path, intents: dict[str, str]
) -> None:
    script = tmp_path / "shouting.py"
    script.write_text(_SCRIPT)
    given = [str(script) if one == "SCRIPT" else one for one in metrics]
    task = {"name": "sequence-classification", "head": "mean", "metrics": given}
    training = {"max_steps": 2, "batch_size": 16, "evaluations": 1, "precision": "float32"}
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", task=task, selection=selection, training=training)
    fitted = _fit(recipe, tmp_path / "work")
    assert selection["metric"] in fitted.validation.metrics
    assert prepare(Recipe.model_validate(recipe)).selection.greater_is_better is better
    if "SCRIPT" in metrics:
        with pytest.raises(UnknownNameError, match=r"unknown metric 'wrongs' in selection\.metric") as caught:
            prepare(Recipe.model_validate({**recipe, "selection": {**selection, "metric": "wrongs"}}))
        assert "wrong" in (caught.value.hint or "")


def test_patience_ends_a_training_without_progress(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    # Nothing is learned at this rate: no evaluation is better than the first.
    training = {
        "epochs": 6, "batch_size": 16, "evaluations": 12, "learning_rate": 1e-12, "head_learning_rate": 1e-12,
        "precision": "float32",
    }  # fmt: skip
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", training=training)
    fitted = _fit({**recipe, "selection": {"patience": 2}}, tmp_path / "work")
    assert fitted.stopped_early and fitted.steps == 15
    # The threshold is what progress must be more than.
    training |= {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
    selection = {"patience": 1, "metric": "loss", "threshold": 100.0}
    fitted = _fit({**recipe, "training": training, "selection": selection}, tmp_path / "work2")
    assert fitted.stopped_early and fitted.steps == 10


def test_a_stopped_training_that_is_resumed_stops(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    from pefttools.training.checkpoints import newest_whole

    training = {"epochs": 6, "batch_size": 16, "evaluations": 12, "learning_rate": 1e-12, "head_learning_rate": 1e-12}
    recipe = _recipe(tiny_bert, intents, tmp_path / "a", training=training, selection={"patience": 2})
    prepared = prepare(Recipe.model_validate(recipe))
    first = fit(prepared, SilentReporter(), tmp_path / "work")
    again = fit(prepared, SilentReporter(), tmp_path / "work", checkpoint=newest_whole(tmp_path / "work", Told()))
    assert first.steps == 15 and again.steps == 16 and again.stopped_early


def test_a_wild_learning_rate_did_not_learn_and_says_so(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    told = Told()
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 100.0}
    stored = pefttools.train(_recipe(tiny_bert, intents, tmp_path / "a", training=training), reporter=told)
    assert stored is not None and stored.manifest.training["did_not_learn"]
    assert any(event.startswith("DID NOT LEARN: ") and "than 100" in event for event in told.events)


@pytest.mark.slow
def test_what_learned_is_not_called_so(tmp_path: Path, intents: dict[str, str]) -> None:
    told = Told()
    stored = pefttools.train(_recipe(MINILM, intents, tmp_path / "a"), reporter=told)
    assert stored is not None and stored.manifest.training["did_not_learn"] is None
    assert not any("DID NOT LEARN" in event for event in told.events)


def _evaluation(answers: str, references: str, **metrics: float) -> Evaluation:
    numbers, truth = (["ab".index(letter) for letter in text] for text in (answers, references))
    given = [ClassPrediction(number, (0.5, 0.5), ("a", "b")) for number in numbers]
    share = sum(one == other for one, other in zip(answers, references, strict=True)) / len(answers)
    return Evaluation({"accuracy": share, **metrics}, given, truth)


@pytest.mark.parametrize(
    ("answers", "metric", "value", "learned"),
    [
        ("aaaaaaaa", "accuracy", 0.75, False),  # one answer for all
        ("bbaaaaaa", "accuracy", 0.5, False),  # worse than always a
        ("baaaaaab", "accuracy", 0.75, False),  # as good as always a
        ("aaaaaaab", "accuracy", 0.875, True),
        ("bbaaaabb", "f1_macro", 0.66, True),  # less accurate than always a, but it tells the rare label
        ("bbaaaabb", "loss", 0.6, False),  # the entropy of 6 and 2 is 0.562
        ("bbaaaabb", "loss", 0.5, True),
    ],
)
def test_the_bar_is_always_giving_the_most_frequent_label(
    answers: str, metric: str, value: float, learned: bool
) -> None:
    task = Recipe.model_validate({"base": "b", "method": "lora", "data": {"train": "t"}}).chosen_task()
    truth = (0, 0, 0, 0, 0, 0, 1, 1)
    uninformed = task.uninformed(truth, ("a", "b"))
    assert uninformed is not None
    chance = Evaluation.of(task.metrics, uninformed, truth).metrics
    assert chance["accuracy"] == 0.75 and chance["f1_macro"] == pytest.approx(6 / 7 / 2)
    assert chance["loss"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    found = why_not_learned(
        task, Selection(metric, metric != "loss"), _evaluation(answers, "aaaaaabb", **{metric: value}), "ab", None
    )
    assert (found is None) == learned


def test_rare_labels_that_are_told_apart_are_learned() -> None:
    task = Recipe.model_validate({"base": "b", "method": "lora", "data": {"train": "t"}}).chosen_task()
    selection = Selection("accuracy", True)
    references = "a" * 190 + "b" * 10
    for answers, learned in (
        ("a" * 160 + "b" * 30 + "b" * 9 + "a", True),  # weighed: right for 169 of 200, always a for 190
        (("a" * 17 + "b" * 3) * 9 + "a" * 10 + "a" * 8 + "bb", False),  # as often b where it is a as where it is b
    ):
        found = why_not_learned(task, selection, _evaluation(answers, references), "ab", None)
        assert (found is None) == learned
    one = why_not_learned(task, selection, _evaluation("aaba", "aaaa"), "ab", None)
    assert one is None


def test_a_language_model_must_be_better_than_before(tmp_path: Path, tiny_llama: str) -> None:
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "completion"])
        writer.writerows([f"say the word {word}", word] for word in ["one", "two", "three", "four"] * 8)
    recipe = _recipe(tiny_llama, {"train": str(path), "validation": 0.25}, tmp_path / "a")
    recipe |= {
        "task": {"name": "causal-lm", "generate": False},
        "training": {"max_steps": 8, "batch_size": 8, "precision": "float32", "learning_rate": 1e-2},
    }
    prepared = prepare(Recipe.model_validate(recipe))
    fitted = fit(prepared, SilentReporter(), tmp_path / "work")
    assert fitted.did_not_learn is None
    # The yardstick is the evaluation's own loss.
    after = mean_loss(fitted.model, prepared.examples.validation, 3)
    assert after == pytest.approx(fitted.validation.metrics["loss"], rel=1e-4)
    assert torch.is_grad_enabled()
    recipe["training"]["learning_rate"] = 1e-12
    fitted = fit(prepare(Recipe.model_validate(recipe)), SilentReporter(), tmp_path / "work2")
    assert fitted.did_not_learn is not None and "before training" in fitted.did_not_learn


def test_every_task_says_which_way_its_own_metric_is_better() -> None:
    for name in tasks:
        task = tasks.get(name)
        assert all(one.measure.higher_is_better is not None for one in task(task.config()).metrics)
