"""Which of several models is the best: one metric for checkpoints, trials and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pefttools.compute.config import SelectionConfig
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.metrics import Metric
from pefttools.tasks.task import Task


@dataclass(frozen=True)
class Selection:
    """A metric, and how it is used.

    Attributes:
        metric: name of the metric.
        greater_is_better: which way it is better.
        patience: number of evaluations without progress after which training stops; None for never.
        threshold: minimum change that counts as progress, exclusive.
    """

    metric: str
    greater_is_better: bool
    patience: int | None = None
    threshold: float = 0.0

    def score(self, metrics: Mapping[str, float]) -> float:
        """A number for which higher is better; NaN is worse than any.

        Raises:
            ConfigError: the evaluation gave no such metric.
        """
        if self.metric not in metrics:
            raise ConfigError(
                f"selection.metric: the evaluation gives no {self.metric!r}", hint=f"It gives: {', '.join(metrics)}."
            )
        value = metrics[self.metric]
        if math.isnan(value):
            return -math.inf
        return value if self.greater_is_better else -value


def choose_selection(config: SelectionConfig, task: Task[Any]) -> Selection:
    """The selection that a recipe asks for, or the task's own.

    The names of an external metric's numbers are only known once it has been tried: see `check_measured`.

    Raises:
        UnknownNameError: the task measures no such thing.
        ConfigError: it is not known which way the metric is better.
    """
    known = {metric.name: metric.measure.higher_is_better for metric in task.metrics}
    metric = config.metric or task.metrics[0].name
    if metric not in known and not task.foreign_metrics():
        raise UnknownNameError("metric", metric, known, where="selection.metric")
    better = known.get(metric) if config.greater_is_better is None else config.greater_is_better
    if better is None:
        raise ConfigError(
            f"selection.metric: it is not known which way {metric!r} is better",
            hint="Set selection.greater_is_better to true or false.",
        )
    return Selection(metric, better, config.patience, config.threshold)


def check_measured(selection: Selection, task: Task[Any], metrics: Iterable[Metric]) -> None:
    """Refuse a selection by a metric that the evaluation will not give.

    Args:
        selection: what was chosen.
        task: the task, with its own metrics.
        metrics: the further metrics.

    Raises:
        UnknownNameError: none of them gives such a number.
    """
    known = [metric.name for metric in (*task.metrics, *metrics)]
    if selection.metric not in known:
        raise UnknownNameError("metric", selection.metric, known, where="selection.metric")
