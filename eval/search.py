"""Trying learning rates: the same budget for every method, chosen on validation."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from pefttools.errors import DivergedError
from pefttools.progress import Reporter
from pefttools.training.checkpoints import put_state
from pefttools.training.fit import Fitted, fit
from pefttools.training.prepare import Prepared, build_model
from pefttools.training.rates import Rates

from .records import Trial
from .spec import Search


def search(prepared: Prepared, settings: Search, reporter: Reporter, trials: list[Trial]) -> Fitted:
    """Train once per learning rate and give back the best, with its model.

    Of equal scores the one with the lower validation loss is better, and then the one that is nearest to the defaults.
    Where the best learning rate is the largest or the smallest, further ones are tried beyond it, as far as the budget
    goes.

    Args:
        prepared: what is trained.
        settings: how many learning rates.
        reporter: told of progress.
        trials: filled as they end, so that a caller knows them whatever happens.

    Raises:
        DivergedError: every learning rate diverged; the last one's.
    """
    trains = prepared.method.capabilities.trains != "nothing"
    head_only = prepared.method.capabilities.trains == "head"
    waiting = settings.rates(prepared.rates, head_only=head_only) if trains else [prepared.rates]
    tried: list[Rates] = []
    alone = len(waiting) == 1
    left = 0 if alone else settings.extend
    grid = len(waiting)
    best: Fitted | None = None
    chosen = 0
    best_state: dict[str, torch.Tensor] = {}
    failure: DivergedError | None = None
    while waiting:
        rates = waiting.pop(0)
        tried.append(rates)
        beyond = len(trials) >= grid
        head = rates.head if prepared.labels and trains else None
        try:
            with tempfile.TemporaryDirectory() as work:
                fitted = fit(prepared, reporter, Path(work), rates=rates)
        except DivergedError as error:
            reporter.event(str(error))
            trials.append(
                Trial(
                    learning_rate=rates.method, head_learning_rate=head, status="diverged", steps=error.step,
                    beyond=beyond, error=error.message,
                )
            )  # fmt: skip
            # Its traceback holds the model and the optimizer.
            failure = error.with_traceback(None)
        else:
            trials.append(_trial(prepared, rates, head, fitted, beyond))
            if best is None or _rank(prepared, fitted, rates) > _rank(prepared, best, tried[chosen]):
                best, chosen = fitted, len(tried) - 1
                best_state = {} if alone else _copied(fitted)
            if not alone:
                fitted.release()  # one model at a time in memory
        further = None
        if not waiting:
            further = settings.beyond(tried, None if best is None else tried[chosen], head_only=head_only)
        if further is not None and left:
            reporter.event(
                f"the best learning rate is at the edge of those tried: trying {_said(further, settings)} too"
            )
            waiting.append(further)
            left -= 1
    if best is None:
        assert failure is not None
        raise failure
    if not alone:
        best.model = build_model(prepared)
        put_state(best.model, best_state, "the chosen trial")
        best.model.calibrate(best.validation.calibration)
        if further is not None:
            reporter.event(
                f"the best learning rate, {_said(tried[chosen], settings)}, is at the edge of the {len(trials)} tried, "
                "and the budget is spent: a better one may lie beyond"
            )
    trials[chosen] = trials[chosen].model_copy(update={"chosen": True})
    return best


def _said(rates: Rates, settings: Search) -> str:
    """The learning rates that were searched."""
    both = settings.head_learning_rate > 1 and rates.head != rates.method
    return f"{rates.method:g} (head {rates.head:g})" if both else f"{rates.method:g}"


def _trial(prepared: Prepared, rates: Rates, head: float | None, fitted: Fitted, beyond: bool) -> Trial:
    metrics = fitted.validation.metrics
    return Trial(
        learning_rate=rates.method,
        head_learning_rate=head,
        status="ok",
        score=metrics[prepared.selection.metric],
        loss=metrics.get("loss"),
        steps=fitted.steps,
        beyond=beyond,
        did_not_learn=fitted.did_not_learn,
    )


def _rank(prepared: Prepared, fitted: Fitted, rates: Rates) -> tuple[float, float, float]:
    metrics, default = fitted.validation.metrics, prepared.rates
    steps = abs(math.log(rates.method / default.method)) + abs(math.log(rates.head / default.head))
    return prepared.selection.score(metrics), -metrics.get("loss", 0.0), -round(steps, 6)


def _copied(fitted: Fitted) -> dict[str, torch.Tensor]:
    return {name: p.cpu().clone() for name, p in fitted.model.trainable_state().items()}
