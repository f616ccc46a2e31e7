"""Predictions for rows, some of which may be invalid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.progress import Reporter
from pefttools.tasks import Task
from pefttools.tasks.cuts import cuts_of, is_cut
from pefttools.tasks.task import Example
from pefttools.tuned import TunedModel

OnError = Literal["stop", "skip"]
#: role of a column that is passed through
ID = "id"


def table_of(inputs: Sequence[str | bytes | Mapping[str, Any]], task: Task[Any]) -> Table:
    """Texts, files' bytes, or mappings by column role, as a table of what the task reads.

    Raises:
        ConfigError: a single text instead of a list.
    """
    if isinstance(inputs, str):
        raise ConfigError("give a list of texts, not one text")
    main = task.main_role()
    rows = [{main: one} if isinstance(one, str | bytes) else dict(one) for one in inputs]
    roles = [role for role in (*task.roles, ID) if any(role in row for row in rows)]
    return Table("the inputs", rows, {role: role for role in (main, *roles)}, range(1, len(rows) + 1))


def example_of(
    row: str | Mapping[str, Any], task: Task[Any], processor: Any, labels: Sequence[str], trained: Collection[str]
) -> Example:
    """One row to predict, checked and encoded.

    Args:
        row: a text, or a mapping by column role.
        task: the model's task.
        processor: the base's processor.
        labels: label names.
        trained: roles of the training data; empty if they are not known.

    Raises:
        DataError: the model can't take it.
    """
    table = without_answers(table_of([row], task), task)
    task.check_roles(table.columns, trained)
    (example,) = encoded(table, task, processor, labels, "stop")
    assert not isinstance(example, DataError)
    return example


def predict(
    model: TunedModel, table: Table, *, batch_size: int, on_error: OnError, all_scores: bool, reporter: Reporter
) -> list[dict[str, Any]]:
    """One prediction per row; see `pefttools.predict`.

    Raises:
        DataError: an invalid row, if ``on_error`` is "stop".
    """
    task = model.spec.task
    for note in table.notes:
        reporter.event(note)
    if all_scores and not (model.labels or task.ranks):
        raise ConfigError(f"the task {task.name!r} has no labels to score")
    unlabelled = without_answers(table, task)
    task.check_roles(unlabelled.columns, model.spec.columns)

    examples = encoded(unlabelled, task, model.processor, model.labels, on_error)
    good = [one for one in examples if not isinstance(one, DataError)]
    with reporter.step("predicting", "rows") as advance:
        answers = iter(task.finish(task.predict(model, good, batch_size=batch_size, progress=advance)))
    found: list[dict[str, Any]] = []
    for index, example in enumerate(examples):
        row = {ID: table.rows[index].get(ID)} if ID in table.columns else {}
        if isinstance(example, DataError):
            found.append({**row, "error": str(example)})
            continue
        cut = {"cut_from": task.size_unit.shown(example["length"])} if is_cut(example, task) else {}
        found.append({**row, **next(answers).as_dict(all_scores=all_scores), **cut})
    if len(good) < len(found):
        reporter.event(f"{len(found) - len(good):,} of {len(found):,} rows could not be predicted: see their errors")
    cuts = cuts_of(good, task)
    if cuts.cut:
        reporter.event(cuts.line(table.source))
    return found


def encoded(
    table: Table, task: Task[Any], processor: Any, labels: Sequence[str], on_error: OnError
) -> Sequence[Example | DataError]:
    """Checked and encoded rows to predict; with "skip", an invalid row's error in its place."""

    def encode(part: Table) -> list[Example]:
        task.check(part, labels, labelled=False)
        return task.encode(part, processor, labels, labelled=False)

    return encode(table) if on_error == "stop" else row_by_row(encode, table)


def row_by_row(work: Callable[[Table], list[Example]], table: Table) -> list[Example | DataError]:
    """Results of a function of tables, one per row, with the error of each row that it refuses.

    A refused table is halved, so that a few bad rows cost little among many good ones.
    """
    try:
        return list(work(table))
    except DataError as error:
        if len(table) == 1:
            return [error]
    half = len(table) // 2
    parts = (table.take(range(half)), table.take(range(half, len(table))))
    return [result for part in parts for result in row_by_row(work, part)]


def without_answers(table: Table, task: Task[Any]) -> Table:
    """A table with only those columns that a prediction may see."""
    visible = {role: name for role, name in table.columns.items() if role in task.inputs()}
    rows = [{role: row[role] for role in visible if role in row} for row in table.rows]
    return replace(table, rows=rows, columns=visible, notes=())
