"""Trying learning rates: the same budget for every method, chosen on validation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from pefttools.errors import DivergedError
from pefttools.progress import Reporter
from pefttools.training.checkpoints import put_state
from pefttools.training.fit import Fitted, fit
from pefttools.training.prepare import Prepared, build_model

from .records import Trial
from .spec import Search


def search(prepared: Prepared, settings: Search, reporter: Reporter, trials: list[Trial]) -> Fitted:
    """Train once per learning rate and give back the best, with its model.

    Of equal scores the one with the lower validation loss is better. Where the best learning rate is the largest or
    the smallest, further ones are tried beyond it, as far as the budget goes.

    Args:
        prepared: what is trained.
        settings: how many learning rates.
        reporter: told of progress.
        trials: filled as they end, so that a caller knows them whatever happens.

    Raises:
        DivergedError: every learning rate diverged; the last one's.
    """
    default = prepared.recipe.training.learning_rate or prepared.method.learning_rate
    rates = settings.rates(default) if prepared.method.capabilities.trains else [default]
    alone = len(rates) == 1
    left = 0 if alone else settings.extend
    grid = len(rates)
    best: Fitted | None = None
    best_state: dict[str, torch.Tensor] = {}
    failure: DivergedError | None = None
    while rates:
        rate = rates.pop(0)
        beyond = len(trials) >= grid
        try:
            with tempfile.TemporaryDirectory() as work:
                fitted = fit(prepared, reporter, Path(work), learning_rate=rate)
        except DivergedError as error:
            reporter.event(str(error))
            trials.append(
                Trial(learning_rate=rate, status="diverged", steps=error.step, beyond=beyond, error=error.message)
            )
            failure = error
        else:
            trials.append(_trial(prepared, rate, fitted, beyond))
            if best is None or _rank(prepared, fitted) > _rank(prepared, best):
                best = fitted
                best_state = {} if alone else _copied(fitted)
            if not alone:
                fitted.release()  # one model at a time in memory
        if not rates and left and (further := _further(settings, trials, best)) is not None:
            reporter.event(f"the best learning rate is at the edge of those tried: trying {further:g} too")
            rates.append(further)
            left -= 1
    if best is None:
        assert failure is not None
        raise failure
    if not alone:
        best.model = build_model(prepared)
        put_state(best.model, best_state, "the chosen trial")
        if _further(settings, trials, best) is not None:
            reporter.event(
                f"the best learning rate, {best.learning_rate:g}, is at the edge of the {len(trials)} tried, and the "
                "budget is spent: a better one may lie beyond"
            )
    trials[:] = [trial.model_copy(update={"chosen": trial.learning_rate == best.learning_rate}) for trial in trials]
    return best


def _trial(prepared: Prepared, rate: float, fitted: Fitted, beyond: bool) -> Trial:
    metrics = fitted.validation.metrics
    return Trial(
        learning_rate=rate,
        status="ok",
        score=metrics[prepared.selection.metric],
        loss=metrics.get("loss"),
        steps=fitted.steps,
        beyond=beyond,
        did_not_learn=fitted.did_not_learn,
    )


def _rank(prepared: Prepared, fitted: Fitted) -> tuple[float, float]:
    metrics = fitted.validation.metrics
    return prepared.selection.score(metrics), -metrics.get("loss", 0.0)


def _further(settings: Search, trials: list[Trial], best: Fitted | None) -> float | None:
    return settings.beyond([trial.learning_rate for trial in trials], None if best is None else best.learning_rate)


def _copied(fitted: Fitted) -> dict[str, torch.Tensor]:
    return {name: p.cpu().clone() for name, p in fitted.model.trainable_state().items()}
