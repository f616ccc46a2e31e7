"""The rows of a study's stages, and models measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pefttools.data import Table, read_table
from pefttools.tasks.task import Evaluation
from pefttools.tuned import TunedModel

from .plan import Study


def rows_of(study: Study, number: int, split: str) -> Table:
    """Rows of a stage."""
    task = study.task
    return read_table(str(study.stages[number].files[split]), task.columns(), {}, files_in=task.files_in())


def task_choice(study: Study, learned: Sequence[int] = ()) -> dict[str, Any]:
    """The task as a recipe names it, with the labels of all stages, and those that are told apart so far."""
    given = study.spec.task
    options: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    if study.labels:
        options["labels"] = list(study.labels)
    if learned and (groups := study.groups(learned)):
        options["among"] = groups
    return options


def evaluated(study: Study, model: TunedModel, table: Table, answers: Sequence[str] = ()) -> Evaluation:
    """A model's evaluation on some rows.

    Args:
        study: the study.
        model: the model.
        table: the rows.
        answers: the labels that it may give; empty: as it was trained.
    """
    task = model.spec.task
    if answers:
        task = type(task)(task.options.model_copy(update={"answers": list(answers)})).calibrated(task.calibration)
        model.spec = replace(model.spec, task=task)
    examples = task.encode(table, model.processor, model.labels)
    return task.evaluate(model, examples, batch_size=study.spec.training.eval_batch_size)
