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
    """Train once per learning rate and return the best, with its model.

    Ties go to the lower validation loss, and then to the trial that is nearest to the defaults.
    If the best learning rate is the largest or the smallest, further ones are tried beyond it, as far as the budget
    goes.

    Args:
        prepared: what is trained.
        settings: how many learning rates.
        reporter: shows progress.
        trials: filled as they finish, so that a caller has them whatever happens.

    Raises:
        DivergedError: every learning rate diverged; the last one's.
    """
    trains = prepared.method.capabilities.trains
    waiting = settings.rates(prepared.rates, head_only=trains == "head") if trains != "nothing" else [prepared.rates]
    running = _Search(prepared, reporter, trials, alone=len(waiting) == 1)
    for rates in waiting:
        running.run(rates)
    if running.alone:
        return running.result()
    for _ in range(settings.extend):
        further = settings.beyond(running.tried, running.best_rates, head_only=trains == "head")
        if further is None:
            return running.result()
        reporter.event(f"the best learning rate is at the edge of those tried: trying {_said(further, settings)} too")
        running.run(further, beyond=True)
    found = running.result()
    if settings.beyond(running.tried, running.best_rates, head_only=trains == "head") is not None:
        assert running.best_rates is not None
        reporter.event(
            f"the best learning rate, {_said(running.best_rates, settings)}, is at the edge of the {len(trials)} "
            "tried, and the budget is used up: a better one may exist beyond it"
        )
    return found


class _Search:
    """Trials as they are run, and the best of them.

    Args:
        prepared: what is trained.
        reporter: shows progress.
        trials: filled as they finish.
        alone: there is only one trial, whose model need not be built again.
    """

    def __init__(self, prepared: Prepared, reporter: Reporter, trials: list[Trial], *, alone: bool) -> None:
        self.prepared = prepared
        self.reporter = reporter
        self.trials = trials
        self.alone = alone
        self.tried: list[Rates] = []
        self._best: Fitted | None = None
        self._chosen = 0
        self._state: dict[str, torch.Tensor] = {}
        self._failure: DivergedError | None = None

    @property
    def best_rates(self) -> Rates | None:
        """Those of the best trial; None if all diverged."""
        return None if self._best is None else self.tried[self._chosen]

    def run(self, rates: Rates, *, beyond: bool = False) -> None:
        """Train with these learning rates."""
        self.tried.append(rates)
        trains = self.prepared.method.capabilities.trains != "nothing"
        head = rates.head if self.prepared.labels and trains else None
        try:
            with tempfile.TemporaryDirectory() as work:
                fitted = fit(self.prepared, self.reporter, Path(work), rates=rates)
        except DivergedError as error:
            self.reporter.event(str(error))
            self.trials.append(
                Trial(
                    learning_rate=rates.method, head_learning_rate=head, status="diverged", steps=error.step,
                    beyond=beyond, error=error.message,
                )
            )  # fmt: skip
            # Its traceback holds the model and the optimizer.
            self._failure = error.with_traceback(None)
            return
        self.trials.append(_trial(self.prepared, rates, head, fitted, beyond))
        best = self.best_rates
        if best is None or _rank(self.prepared, fitted, rates) > _rank(self.prepared, self._best, best):
            self._best, self._chosen = fitted, len(self.tried) - 1
            self._state = {} if self.alone else _copied(fitted)
        if not self.alone:
            fitted.release()  # one model at a time in memory

    def result(self) -> Fitted:
        """The best trial, with its model.

        Raises:
            DivergedError: all diverged; the last one's.
        """
        if self._best is None:
            assert self._failure is not None
            raise self._failure
        if not self.alone:
            self._best.model = build_model(self.prepared)
            put_state(self._best.model, self._state, "the chosen trial")
            self._best.model.calibrate(self._best.validation.calibration)
        self.trials[self._chosen] = self.trials[self._chosen].model_copy(update={"chosen": True})
        return self._best


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


def _rank(prepared: Prepared, fitted: Fitted | None, rates: Rates) -> tuple[float, float, float]:
    assert fitted is not None
    metrics, default = fitted.validation.metrics, prepared.rates
    steps = abs(math.log(rates.method / default.method)) + abs(math.log(rates.head / default.head))
    return prepared.selection.score(metrics), -metrics.get("loss", 0.0), -round(steps, 6)


def _copied(fitted: Fitted) -> dict[str, torch.Tensor]:
    return {name: p.cpu().clone() for name, p in fitted.model.trainable_state().items()}
