"""The metrics that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pefttools.errors import ConfigError
from pefttools.metrics.metric import Metric

#: a metric by name, or by name with options
MetricChoice = str | dict[str, Any]


def split(choice: MetricChoice) -> tuple[str, dict[str, Any]]:
    """Name and options.

    Raises:
        ConfigError: a mapping without a name.
    """
    options = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("task.metrics: a mapping needs the field 'name'", hint="For example: {name: f1, ...}.")
    return name, options


def own_metric(choice: MetricChoice, ours: Mapping[str, type[Metric]]) -> Metric | None:
    """The metric that is meant, of those that come with a task; None if it is not one of them.

    Raises:
        ConfigError: an option that it does not have, or an invalid value.
    """
    name, options = split(choice)
    if name not in ours:
        return None
    try:
        return ours[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"task.metrics: the metric {name!r} does not take these options: {error}") from error
