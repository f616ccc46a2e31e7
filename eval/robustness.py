"""A run's score under the conditions of its spec: typos, attacks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pefttools.errors import ConfigError
from pefttools.robustness import Condition

from .records import UnderCondition

if TYPE_CHECKING:
    from pefttools.data import Table
    from pefttools.progress import Reporter
    from pefttools.training.prepare import Prepared
    from pefttools.tuned import TunedModel


def check_conditions(conditions: Sequence[Condition], prepared: Prepared) -> None:
    """Refuse conditions that a run can't be measured under, before it starts.

    Raises:
        ConfigError: names the condition.
    """
    for condition in conditions:
        try:
            condition.check(prepared.task, _rows(prepared))
        except ConfigError as error:
            raise ConfigError(f"robustness, {condition.title!r}: {error.message}", hint=error.hint) from error


def measure(
    conditions: Sequence[Condition], prepared: Prepared, model: TunedModel, reporter: Reporter
) -> tuple[dict[str, UnderCondition], dict[str, NDArray[Any]]]:
    """The chosen model's metrics under each condition, on the rows that its score is measured on.

    Args:
        conditions: of the spec.
        prepared: what was trained.
        model: as it was saved and loaded again.
        reporter: shows progress.

    Returns:
        By the condition's title: the metrics, and what each row contributes to the primary one, if it has such numbers.
    """
    found, values = {}, {}
    for condition in conditions:
        begin = time.perf_counter()
        examples, changed = _examples(condition, prepared, model, reporter)
        with reporter.step(f"evaluating under {condition.title}", "rows") as advance:
            evaluation = condition.evaluate(
                model, examples, batch_size=_batch_size(condition, prepared), progress=advance
            )
        found[condition.title] = UnderCondition(
            settings=condition.settings(),
            metrics=evaluation.metrics,
            changed=changed,
            seconds=round(time.perf_counter() - begin, 3),
        )
        if (of_rows := evaluation.row_values(prepared.selection.metric)) is not None:
            values[condition.title] = of_rows
    return found, values


def titles(conditions: Sequence[Condition]) -> list[str]:
    """Their titles.

    Raises:
        ConfigError: an attack that does not exist, or two conditions with the same title.
    """
    found = [condition.title for condition in conditions]
    if double := next((one for one in found if found.count(one) > 1), None):
        raise ConfigError(
            f"robustness: two conditions are called {double!r}", hint="Give one of them a name: {name: ..., ...}."
        )
    return found


def settings_of(conditions: Sequence[Condition]) -> list[Mapping[str, Any]]:
    """All that determines what they do, as it goes into the hash of a run."""
    return [{"title": condition.title, **condition.settings()} for condition in conditions]


def _rows(prepared: Prepared) -> Table:
    """The rows that are measured, as they were read: before passages were looked up for them."""
    splits = prepared.splits.given or prepared.splits
    return splits.validation if splits.test is None else splits.test


def _examples(
    condition: Condition, prepared: Prepared, model: TunedModel, reporter: Reporter
) -> tuple[Sequence[Any], str | None]:
    """The rows as the model takes them, and what was changed in their texts."""
    misspelt = condition.misspelt(_rows(prepared), prepared.task)
    if misspelt is None:
        examples = prepared.examples
        return examples.validation if examples.test is None else examples.test, None
    reporter.event(misspelt.said())
    table = misspelt.table if prepared.knowledge is None else prepared.knowledge.add_to(misspelt.table)
    prepared.task.check(table, prepared.labels)
    return prepared.task.encode(table, model.processor, prepared.labels), misspelt.said()


def _batch_size(condition: Condition, prepared: Prepared) -> int:
    """An attack needs the memory of training: no more rows at a time than there."""
    settings = prepared.recipe.training
    if condition.attack is None:
        return settings.eval_batch_size
    return min(settings.eval_batch_size, settings.batch_size // prepared.passes)
