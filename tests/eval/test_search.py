"""The search of learning rates: outwards from an edge, ties by loss, one budget for all."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttools.bases import locate_base
from pefttools.errors import DivergedError
from pefttools.eval import search as search_module
from pefttools.eval.records import Trial
from pefttools.eval.search import search
from pefttools.eval.spec import Search
from pefttools.methods import methods
from pefttools.recipe import Recipe
from pefttools.tasks import Evaluation
from pefttools.training.fit import Fitted
from pefttools.training.prepare import Prepared, prepare
from pefttools.training.rates import Rates, default_rates
from tests.pefttools.test_resume import Told

Outcome = tuple[float, float] | None


def _searched(
    monkeypatch: pytest.MonkeyPatch, prepared: Prepared, settings: Search, outcomes: dict[Any, Outcome]
) -> tuple[list[Trial], Fitted, list[str]]:
    """A search in which training gives what `outcomes` says: accuracy and loss; None: it diverges."""
    pairs = isinstance(next(iter(outcomes)), tuple)

    class Model:
        def trainable_state(self) -> dict[str, torch.Tensor]:
            return {}

        def calibrate(self, calibration: Any) -> None:
            return

    def fit(_: Prepared, __: Any, ___: Path, *, rates: Rates) -> Fitted:
        found = outcomes[(round(rates.method, 9), round(rates.head, 9)) if pairs else round(rates.method, 9)]
        if found is None:
            raise DivergedError(3, float("nan"))
        model: Any = Model()
        evaluation = Evaluation({"accuracy": found[0], "loss": found[1]})
        return Fitted(model, evaluation, [], 5, 5, 1.0, 0.0, 10, 10, rates.method, rates.head)

    monkeypatch.setattr(search_module, "fit", fit)
    monkeypatch.setattr(search_module, "build_model", lambda prepared: Model())
    monkeypatch.setattr(search_module, "put_state", lambda *_: None)
    trials: list[Trial] = []
    told = Told()
    best = search(prepared, settings, told, trials)
    return trials, best, told.events


@pytest.fixture
def prepared(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> Prepared:
    recipe = {
        "base": tiny_bert,
        "method": "lora",
        "data": dict(intents),
        "training": {"learning_rate": 0.1},
        "output": str(tmp_path / "a"),
    }
    return prepare(Recipe.model_validate(recipe))


SETTINGS = Search(learning_rate=3, factor=10, extend=2)


@pytest.mark.parametrize(
    ("outcomes", "chosen", "count", "said"),
    [
        # the best lies inside: no further trial
        ({0.01: (0.5, 1.0), 0.1: (0.7, 0.8), 1.0: (0.6, 0.9)}, 0.1, 3, None),
        # at the upper edge: one more shows that it was the best
        ({0.01: (0.5, 1.0), 0.1: (0.7, 0.8), 1.0: (0.8, 0.9), 10.0: (0.6, 1.0)}, 1.0, 4, "trying 10 too"),
        # ever better: the budget ends, and that is said
        ({0.01: (0.5, 1), 0.1: (0.7, 0.8), 1.0: (0.8, 0.7), 10.0: (0.85, 0.6), 100.0: (0.9, 0.5)}, 100.0, 5,
         "100, is at the edge of the 5 tried"),
        # at the lower edge
        ({0.001: (0.4, 1.0), 0.01: (0.9, 1.0), 0.1: (0.7, 0.8), 1.0: (0.8, 0.9)}, 0.01, 4, "trying 0.001 too"),
        # what diverged was tried, too: its neighbour is not at the edge
        ({0.01: (0.5, 1.0), 0.1: (0.7, 0.8), 1.0: None}, 0.1, 3, None),
        # all diverge: smaller ones are the way out
        ({0.01: None, 0.1: None, 1.0: None, 0.001: (0.6, 1.0), 0.0001: (0.2, 2.0)}, 0.001, 5, "trying 0.001 too"),
        # ties: the lower validation loss
        ({0.01: (0.7, 0.9), 0.1: (0.7, 0.8), 1.0: (0.7, 0.85)}, 0.1, 3, None),
        # of equal scores and losses, the default
        ({0.01: (0.7, 0.8), 0.1: (0.7, 0.8), 1.0: (0.7, 0.8)}, 0.1, 3, None),
    ],
)  # fmt: skip
def test_the_search_goes_outwards_within_its_budget(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, outcomes: dict[float, Outcome], chosen: float, count: int,
    said: str | None,
) -> None:  # fmt: skip
    trials, best, events = _searched(monkeypatch, prepared, SETTINGS, outcomes)
    assert best.learning_rate == pytest.approx(chosen) and len(trials) == count
    assert [trial.learning_rate for trial in trials if trial.chosen] == [best.learning_rate]
    assert [trial.beyond for trial in trials] == [index >= 3 for index in range(count)]
    at_edge = [event for event in events if "edge" in event]
    assert bool(at_edge) == (said is not None) and (said is None or any(said in event for event in at_edge))


def test_one_trial_is_no_search(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, _, events = _searched(monkeypatch, prepared, Search(learning_rate=1), {0.1: (0.5, 1.0)})
    assert len(trials) == 1 and not events


def test_where_all_diverge_the_last_error_is_raised(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: dict[float, Outcome] = {0.01: None, 0.1: None, 1.0: None, 0.001: None, 0.0001: None}
    with pytest.raises(DivergedError):
        _searched(monkeypatch, prepared, SETTINGS, outcomes)


def test_the_heads_rate_is_searched_with_the_methods(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Search(learning_rate=3, head_learning_rate=2, factor=10, extend=2)
    assert settings.trials == 6
    # the head's default is 0.01; of two rates the other is the smaller one
    outcomes: dict[Any, Outcome] = {
        (0.01, 0.001): (0.1, 1), (0.01, 0.01): (0.2, 1), (0.1, 0.001): (0.3, 1), (0.1, 0.01): (0.8, 1),
        (1.0, 0.001): (0.2, 1), (1.0, 0.01): (0.5, 1), (0.1, 0.1): (0.7, 1),
    }  # fmt: skip
    trials, best, events = _searched(monkeypatch, prepared, settings, outcomes)
    assert (best.learning_rate, best.head_learning_rate) == (pytest.approx(0.1), pytest.approx(0.01))
    assert len(trials) == 7 and trials[-1].beyond and trials[-1].head_learning_rate == pytest.approx(0.1)
    assert [trial.chosen for trial in trials].count(True) == 1 and trials[3].chosen
    assert any("trying 0.1 too" in event for event in events)


def test_trials_of_the_head_alone_are_trials_of_its_rate(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    from pefttools.progress import SilentReporter

    recipe = {
        "base": tiny_bert, "method": "head", "data": dict(intents), "output": str(tmp_path / "a"),
        "training": {"max_steps": 4, "batch_size": 16, "precision": "float32"},
    }  # fmt: skip
    trials: list[Trial] = []
    found = prepare(Recipe.model_validate(recipe))
    search(found, Search(learning_rate=3, factor=100, extend=0), SilentReporter(), trials)
    assert [trial.learning_rate for trial in trials] == pytest.approx([1e-4, 1e-2, 1.0])
    assert [trial.head_learning_rate for trial in trials] == [trial.learning_rate for trial in trials]
    assert len({trial.loss for trial in trials}) == 3, "each rate gives weights of its own"
    assert len(Search(learning_rate=3, head_learning_rate=3).rates(found.rates, head_only=True)) == 9


@pytest.mark.parametrize(
    ("method", "training", "expected"),
    [
        ("head", {}, (1e-2, 1e-2)),
        ("head", {"learning_rate": 0.1}, (0.1, 0.1)),
        ("head", {"head_learning_rate": 0.2}, (0.2, 0.2)),
        ("lora", {"head_learning_rate": 0.2}, (2e-3, 0.2)),
        ("full", {}, (1e-4, 1e-2)),
    ],
)
def test_default_rates(
    method: str, training: dict[str, float], expected: tuple[float, float], tiny_bert: str, intents: dict[str, str]
) -> None:
    recipe = Recipe.model_validate({"base": tiny_bert, "method": method, "data": dict(intents), "training": training})
    found = default_rates(recipe.training, recipe.chosen_method()[0], locate_base(tiny_bert))
    assert (found.method, found.head) == expected


def test_the_larger_the_base_the_smaller_the_rate_of_full_fine_tuning() -> None:
    full = methods.get("full")()
    rates = [full.default_learning_rate(parameters) for parameters in (1000, 22_700_000, 110_000_000, 3_200_000_000)]
    assert rates == pytest.approx([1e-4, 1e-4, 4.6e-5, 8.5e-6])
    assert methods.get("lora")().default_learning_rate(3_200_000_000) == 2e-3


def test_a_trial_that_diverged_leaves_nothing_in_memory(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def trainable_state(self) -> dict[str, torch.Tensor]:
            return {}

        def calibrate(self, calibration: Any) -> None:
            return

    left: list[weakref.ref[Model]] = []

    def fit(_: Prepared, __: Any, ___: Path, *, rates: Rates) -> Fitted:
        assert not [one for one in left if one() is not None], "the model of the trial before is still there"
        model: Any = Model()
        if len(left) < 2:
            left.append(weakref.ref(model))
            raise DivergedError(3, float("nan"))
        return Fitted(model, Evaluation({"accuracy": 0.5, "loss": 1.0}), [], 5, 5, 1.0, 0.0, 10, 10, rates.method)

    monkeypatch.setattr(search_module, "fit", fit)
    monkeypatch.setattr(search_module, "build_model", lambda prepared: Model())
    monkeypatch.setattr(search_module, "put_state", lambda *_: None)
    trials: list[Trial] = []
    search(prepared, SETTINGS, Told(), trials)
    assert [one.status for one in trials][:2] == ["diverged", "diverged"]


def test_what_was_chosen_on_validation_outlives_the_search(tiny_bert: str, tmp_path: Path) -> None:
    """The model of the best trial is built anew; its thresholds are the trial's all the same."""
    from tests.pefttools.tasks.samples import SAMPLES

    options, rows = SAMPLES["multi-label-classification"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    recipe = {
        "base": tiny_bert, "method": "lora", "task": {"name": "multi-label-classification", **options},
        "data": {"train": str(path), "validation": 0.34}, "training": {"max_steps": 1, "batch_size": 8},
    }  # fmt: skip
    best = search(prepare(Recipe.model_validate(recipe)), Search(learning_rate=2, extend=0), Told(), [])
    assert best.validation.calibration is not None
    assert best.model.spec.task.calibration == best.validation.calibration
