"""A page for each registered method, task and objective."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from pydantic import BaseModel, ValidationError

from pefttools.methods import methods
from pefttools.objectives import objectives
from pefttools.registry import Registry
from pefttools.tasks import tasks

from .fields import fields
from .listing import listed
from .probe import observed
from .text import docstring, page, prose, table


def method_pages() -> dict[str, str]:
    """Path -> page, for every method."""
    rows = listed("methods")
    homes = Counter(methods.get(name).__module__ for name in methods)
    pages = {}
    for name in methods:
        method, row = methods.get(name), rows[name]
        alone = homes[method.__module__] == 1
        about = docstring(sys.modules[method.__module__].__doc__ if alone else method.__doc__)
        if method.why_not is not None:
            refused = f"It can't be used: {prose(method.why_not)}."
            pages[f"methods/{name}.md"] = page(f"`{name}`", _lead(row), refused, about)
            continue
        pages[f"methods/{name}.md"] = page(
            f"`{name}`", _lead(row), about, _choice("method", name, method.config), "## Options",
            fields(method.config, 3), "## What it does to a model", _capabilities(row), observed(name),
        )  # fmt: skip
    return pages


def task_pages() -> dict[str, str]:
    """Path -> page, for every task."""
    rows = listed("tasks")
    pages = {}
    for name in tasks:
        task = tasks.get(name)
        columns = table(
            ["column", "holds", "for training", "for prediction"],
            [
                [f"`{role}`", one.kind, "required" if one.required else "optional", "read" if one.is_input else "–"]
                for role, one in task.roles.items()
            ],
        )
        pages[f"tasks/{name}.md"] = page(
            f"`{name}`", _lead(rows[name]), docstring(task.__doc__), f"It reads: {task.modality}.",
            _choice("task", name, task.config), "## Columns", columns,
            "`data.columns` in a recipe maps other names to these. See also [tasks](../tasks.md).",
            "## Options", fields(task.config, 3), "## Metrics", _metrics(task),
        )  # fmt: skip
    return pages


def objective_pages() -> dict[str, str]:
    """Path -> page, for every objective."""
    rows = listed("objectives")
    pages = {}
    for name in objectives:
        objective, row = objectives.get(name), rows[name]
        uses = ", ".join(row["uses"]) or "the plain pass alone"
        loss = row["the task's loss"]
        facts = f"- the task's loss: {loss}\n- uses: {uses}"
        pages[f"objectives/{name}.md"] = page(
            f"`{name}`", _lead(row), docstring(objective.__doc__), facts, _choice("objective", name, objective.config),
            "## Options", fields(objective.config, 3),
            "What each gave on one data set, and what can't be combined: [objectives](../objectives.md).",
        )  # fmt: skip
    return pages


def _lead(row: dict[str, Any]) -> str:
    """The summary as a sentence, and the paper."""
    summary = prose(row["summary"][0].upper() + row["summary"][1:]) + "."
    return f"{summary} [Paper]({row['paper']})" if row.get("paper") else summary


def _choice(kind: str, name: str, config: type[BaseModel]) -> str:
    """How a recipe names it."""
    bare = all(not field.is_required() for field in config.model_fields.values())
    return f"```yaml\n{kind}: {name if bare else f'{{name: {name}}}  # and options, see below'}\n```"


def _capabilities(row: dict[str, Any]) -> str:
    lines = [
        ["trains", row["trains"]],
        ["effect", row["effect"] or "none"],
        ["number formats of the base", ", ".join(row["variants"])],
        ["can", ", ".join(row["can"])],
        ["default learning rate", str(row["learning rate"])],
    ]
    return "\n".join(f"- {name}: {value}" for name, value in lines)


def _metrics(task: Any) -> str:
    """What every evaluation measures, and what a recipe may name besides."""
    try:
        usual = [metric.name for metric in task(task.config()).metrics]
    except ValidationError:
        usual = []
    parts = []
    if usual:
        measured = ", ".join(f"`{name}`" for name in usual)
        parts.append(f"Measured by default; the first chooses the best model: {measured}.")
    else:
        parts.append("What is measured by default depends on the options.")
    if task.named_metrics:
        named = ", ".join(f"`{name}`" for name in task.named_metrics)
        parts.append(f"`task.metrics` may name: {named}.")
    return "\n\n".join(parts)


def registered() -> dict[str, Registry[Any]]:
    """Folder of the pages -> registry."""
    return {"methods": methods, "tasks": tasks, "objectives": objectives}
