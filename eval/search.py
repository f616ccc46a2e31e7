"""Trying learning rates: the same number for every method, chosen on validation."""

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

    Args:
        prepared: what is trained.
        settings: how many learning rates.
        reporter: told of progress.
        trials: filled as they end, so that a caller knows them whatever happens.

    Raises:
        DivergedError: every learning rate diverged; the last one's.
    """
    metric = prepared.task.primary_metric
    default = prepared.recipe.training.learning_rate or prepared.method.learning_rate
    rates = settings.rates(default) if prepared.method.capabilities.trains else [default]
    best: Fitted | None = None
    best_state: dict[str, torch.Tensor] = {}
    failure: DivergedError | None = None
    for rate in rates:
        with tempfile.TemporaryDirectory() as work:
            try:
                fitted = fit(prepared, reporter, Path(work), learning_rate=rate)
            except DivergedError as error:
                reporter.event(str(error))
                trials.append(Trial(learning_rate=rate, status="diverged", steps=error.step, error=error.message))
                failure = error
                continue
        score = fitted.validation.metrics[metric]
        trials.append(Trial(learning_rate=rate, status="ok", score=score, steps=fitted.steps))
        if len(rates) == 1:
            best = fitted
        else:
            if best is None or score > best.validation.metrics[metric]:
                best = fitted
                best_state = {name: p.cpu().clone() for name, p in fitted.model.trainable_state().items()}
            fitted.release()  # one model at a time in memory
    if best is None:
        assert failure is not None
        raise failure
    if len(rates) > 1:
        best.model = build_model(prepared)
        put_state(best.model, best_state, "the chosen trial")
    trials[:] = [trial.model_copy(update={"chosen": trial.learning_rate == best.learning_rate}) for trial in trials]
    return best
