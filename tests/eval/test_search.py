"""The search of learning rates: outwards from an edge, ties by loss, one budget for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pefttools.errors import DivergedError
from pefttools.eval import search as search_module
from pefttools.eval.records import Trial
from pefttools.eval.search import search
from pefttools.eval.spec import Search
from pefttools.recipe import Recipe
from pefttools.tasks import Evaluation
from pefttools.training.fit import Fitted
from pefttools.training.prepare import Prepared, prepare
from tests.pefttools.test_resume import Told

Outcome = tuple[float, float] | None


def _searched(
    monkeypatch: pytest.MonkeyPatch, prepared: Prepared, settings: Search, outcomes: dict[float, Outcome]
) -> tuple[list[Trial], Fitted, list[str]]:
    """A search in which training gives what `outcomes` says: accuracy and loss; None: it diverges."""

    class Model:
        def trainable_state(self) -> dict[str, torch.Tensor]:
            return {}

    def fit(_: Prepared, __: Any, ___: Path, *, learning_rate: float) -> Fitted:
        found = outcomes[round(learning_rate, 9)]
        if found is None:
            raise DivergedError(3, float("nan"))
        model: Any = Model()
        evaluation = Evaluation({"accuracy": found[0], "loss": found[1]}, [])
        return Fitted(model, evaluation, [], 5, 5, 1.0, 0.0, 10, 10, learning_rate)

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
