"""Rows to try a plugin on, if a test brings none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pefttools.data import Table
from pefttools.tasks.task import Example, Task
from pefttools.tuned import TunedModel

TEXTS = ("a short text", "another text that is a good deal longer than the first", "third")


def table_of_rows(rows: Sequence[Mapping[str, Any]], task: Task[Any]) -> Table:
    """Rows by column role as a table of what the task reads."""
    roles = [role for role in task.roles if any(role in row for row in rows)]
    cells = [{role: row.get(role) for role in roles} for row in rows]
    return Table("the rows", cells, {role: role for role in roles}, range(1, len(rows) + 1))


def encoded_rows(model: TunedModel, rows: Sequence[Mapping[str, Any]] | None) -> list[Example]:
    """Labelled examples; without rows, from short texts."""
    task = model.spec.task
    if rows is None:
        rows = [_row(task, text, index, model.labels) for index, text in enumerate(TEXTS)]
    return list(task.training_set(task.encode(table_of_rows(rows, task), model.processor, model.labels)))


def _row(task: Task[Any], text: str, index: int, labels: Sequence[str]) -> dict[str, Any]:
    # By the roles that every such task has for what is read and what is written.
    written = next((role for role, one in task.roles.items() if not one.is_input), None)
    if written is None:
        return {task.main_role(): text}
    if task.generates:
        return {task.main_role(): text, written: "an answer"}
    return {task.main_role(): text, "label": labels[index % len(labels)]}
