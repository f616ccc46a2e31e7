"""``pefttools methods | variants | tasks | objectives | schema``: what is installed, and what each can do."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import typer

from pefttools.errors import PeftToolsError

if TYPE_CHECKING:
    from pefttools.bases.base import BaseVariant
    from pefttools.methods import Capabilities, Method
    from pefttools.objectives import Objective
    from pefttools.registry import Registry
    from pefttools.tasks.task import Task


def methods(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the tuning methods and what each can do.

    Examples:
        pefttools methods
        pefttools methods --json
    """
    from pefttools.methods import methods as registry

    def row(method: type[Method[Any]]) -> dict[str, Any]:
        can = method.capabilities
        abilities = {
            "be merged": can.mergeable,
            "be pooled": can.deltas,
            "gradient checkpointing": can.gradient_checkpointing,
            "text pairs with token types": can.all_inputs,
            "several texts in one row": can.packing,
        }
        return {
            "summary": method.summary,
            "can't be used": method.why_not or "",
            "trains": _TRAINS[can.trains],
            "effect": _EFFECTS[can.effect],
            "tasks": ["all that train a head"] if can.trains == "head" else ["all"],
            "variants": _variants_of(can),
            "can": [word for word, able in abilities.items() if able],
            "learning rate": _learning_rate(method),
            "options": _options(method.config),
            "paper": method.paper,
        }

    _show("Tuning methods", _rows(registry, row), as_json)


_TRAINS = {
    "adapter": "parameters of its own",
    "base": "the base's own weights",
    "head": "only the task's head",
    "nothing": "nothing",
}
_EFFECTS = {
    "weights": "a change of weights",
    "modules": "modules of its own",
    "virtual_tokens": "virtual tokens before the text",
    "none": "",
}


def _variants_of(can: Capabilities) -> list[str]:
    if can.variants is not None:
        return sorted(can.variants)
    if can.trains == "base" or can.quantized is not None:
        return ["all that are not quantized", *sorted(can.quantized or ())]
    return ["all"]


def _first_metric(task: type[Task[Any]]) -> str:
    """The metric that selects if a recipe names none, for the task's default options."""
    from pydantic import ValidationError

    try:
        return task(task.config()).metrics[0].name
    except ValidationError:
        return "depends on its options"


def _learning_rate(method: type[Method[Any]]) -> float | str:
    """The default if it is one number; its maximum if it depends on the base."""
    from pefttools.methods import Method

    by_size = method.default_learning_rate is not Method.default_learning_rate
    return f"{method.learning_rate:g} at most, less for larger bases" if by_size else method.learning_rate


def variants(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the variants: number formats of a base's weights.

    Examples:
        pefttools variants
    """
    from pefttools.bases import variants as registry

    def row(variant: type[BaseVariant]) -> dict[str, Any]:
        return {"summary": variant.summary, "quantized": variant.quantized}

    _show("Variants", _rows(registry, row), as_json)


def bases(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """The former name of `variants`.

    Examples:
        pefttools variants
    """
    print(
        "`pefttools bases` is called `pefttools variants` now; the old name will be removed in the next minor version",
        file=sys.stderr,
    )
    variants(as_json)


def tasks(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the tasks, their columns and options.

    Examples:
        pefttools tasks
    """
    from pefttools.tasks import tasks as registry

    def row(task: type[Task[Any]]) -> dict[str, Any]:
        return {
            "summary": task.summary,
            "columns": ", ".join(role if required else f"[{role}]" for role, required in task.columns().items()),
            "chosen by": _first_metric(task),
            "options": _options(task.config),
        }

    _show("Tasks, with their columns (in brackets: optional)", _rows(registry, row), as_json)


def objectives(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the objectives: what is minimised beside the task's loss, or instead of it.

    Examples:
        pefttools objectives
    """
    from pefttools.objectives import objectives as registry

    def row(objective: type[Objective[Any]]) -> dict[str, Any]:
        uses = {
            "a change of the model's input": objective.perturbs or objective.changes_input,
            "a comparison of two passes": objective.compares,
        }
        return {
            "summary": objective.summary,
            "uses": [word for word, used in uses.items() if used],
            "the task's loss": _effect_on_loss(objective),
            "options": _options(objective.config),
            "paper": objective.paper,
        }

    _show("Objectives", _rows(registry, row), as_json)


def _effect_on_loss(objective: type[Objective[Any]]) -> str:
    if objective.replaces_loss or objective.shapes_loss:
        return "is replaced"
    if objective.changes_input or objective.changes_weights:
        return f"is computed {'on a changed input' if objective.changes_input else 'with changed weights'}"
    return "gets a further term"


def schema(
    what: str = typer.Argument(
        "recipe",
        help="recipe, the name of a command that reads a file (bench), method:NAME, task:NAME or objective:NAME.",
    ),
) -> None:
    """Print a JSON schema, for editors.

    Examples:
        pefttools schema > recipe.schema.json
        pefttools schema bench
    """
    from pefttools.errors import UnknownNameError

    files = _files_of_commands()
    kind, _, name = what.partition(":")
    model: Any
    if what == "recipe":
        from pefttools.recipe import Recipe as model
    elif kind == "method" and name:
        from pefttools.methods import methods as registry

        model = registry.get(name).config
    elif kind == "task" and name:
        from pefttools.tasks import tasks as task_registry

        model = task_registry.get(name).config
    elif kind == "objective" and name:
        from pefttools.objectives import objectives as objective_registry

        model = objective_registry.get(name).config
    elif what in files:
        module, _, attribute = files[what].partition(":")
        model = getattr(importlib.import_module(module), attribute)
    else:
        raise UnknownNameError("schema", what, ("recipe", *files, "method:NAME", "task:NAME", "objective:NAME"))
    print(json.dumps(model.model_json_schema(), indent=2))


def _files_of_commands() -> dict[str, str]:
    """Command of a plugin -> the pydantic model of the file that it reads, as MODULE:CLASS in its attribute `reads`."""
    found = {}
    for point in entry_points(group="pefttools.commands"):
        reads = getattr(point.load(), "reads", None)
        if reads is not None:
            found[point.name] = str(reads)
    return found


def _rows(registry: Registry[Any], row: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each plugin, or why it can't be loaded: one broken package must not hide the others."""
    rows: list[dict[str, Any]] = []
    for name in registry:
        try:
            plugin = registry.get(name)
        except PeftToolsError as error:
            rows.append({"name": name, "error": str(error)})
        else:
            rows.append({"name": name, **row(plugin), "from": registry.origin(name).distribution})
    return rows


def _options(config: Any) -> list[str]:
    """Options with their defaults; required ones without."""
    found = []
    for name, field in config.model_fields.items():
        if field.is_required():
            found.append(name)
            continue
        default = field.get_default(call_default_factory=True)
        found.append(f"{name}={default if isinstance(default, str) else json.dumps(default)}")
    return found


def _show(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        text = Text(str(row.get("summary") or row.get("error")))
        for key, value in row.items():
            if key in ("name", "summary", "error") or value in ("", []):
                continue
            text.append(f"\n{key}: ", style="dim")
            text.append(_cell(value))
        table.add_row(Text(row["name"]), text)
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
