"""Rows and answers that methods and objectives are shown before a training begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from pefttools.compute.moving import all_moved
from pefttools.data import Table
from pefttools.errors import DataError
from pefttools.methods import Pass
from pefttools.objectives import Objective
from pefttools.progress import Reporter
from pefttools.tasks.task import Example
from pefttools.training.prepare import Prepared
from pefttools.training.teaching import answers_of, learned_layers
from pefttools.training.unlabelled import Unlabelled
from pefttools.tuned import TunedModel


def teach(prepared: Prepared, model: TunedModel, reporter: Reporter) -> None:
    """Show objectives the answers that they learn, and rows without labels."""
    # Teachers were trained on rows without passages that are looked up.
    given = prepared.splits.given or prepared.splits
    table, size = given.train, prepared.recipe.training.eval_batch_size
    for objective, teachers in zip(model.objectives, prepared.teachers, strict=True):
        if not teachers:
            continue
        mapped = learned_layers(objective, prepared.base, teachers)
        answers = [
            answers_of(one, table, prepared.labels, size, reporter, list(layers.values()))
            for one, layers in zip(teachers, mapped, strict=True)
        ]
        objective.teach([one.logits for one in answers])
        if objective.learns_states():
            pairs = zip(answers, mapped, strict=True)
            objective.teach_states([{mine: one.states[n] for mine, n in layers.items()} for one, layers in pairs])
    for objective, rows in zip(model.objectives, prepared.unlabelled, strict=True):
        if rows is not None:
            examples = prepared.task.encode(rows, model.processor, prepared.labels, labelled=False)
            objective.receive(Unlabelled(model, examples, prepared.recipe.seed))


def report_unlabelled(prepared: Prepared, model: TunedModel, reporter: Reporter) -> None:
    """Let objectives report what became of the rows without labels that they learned from."""
    task, size = prepared.task, prepared.recipe.training.eval_batch_size
    for objective, rows in zip(model.objectives, prepared.unlabelled, strict=True):
        if rows is None or type(objective).said_of_unlabelled is Objective.said_of_unlabelled:
            continue
        known = _has_answers(prepared, rows)
        examples = task.encode(rows, model.processor, prepared.labels, labelled=known)
        references = [task.reference(one, prepared.labels) for one in examples] if known else None
        predictions = task.predict(model, examples, batch_size=size)
        if (said := objective.said_of_unlabelled(predictions, references)) is not None:
            reporter.event(said)


def _has_answers(prepared: Prepared, rows: Table) -> bool:
    """Whether rows that are read without labels have them after all, and only such as are learned."""
    task = prepared.task
    if not task.columns().keys() - task.inputs() <= rows.columns.keys():
        return False
    try:
        task.check(rows, prepared.labels)
    except DataError:
        return False
    return True


def remember(prepared: Prepared, model: TunedModel) -> None:
    """Show objectives the rows that are not to be forgotten, one at a time."""
    for objective, table in zip(model.objectives, prepared.old_rows, strict=True):
        if table is None:
            continue
        rows = prepared.task.training_set(prepared.task.encode(table, model.processor, prepared.labels))
        training = model.training
        model.eval()
        objective.remember(model.trained(), (partial(loss_of, model, [row]) for row in rows))
        model.train(training)


def loss_of(model: TunedModel, examples: Sequence[Example]) -> torch.Tensor:
    """The task's own loss of some training examples."""
    moved = all_moved(model.spec.task.training_batch(model, examples), model.device)
    with model.precision():
        return model.task_loss(moved, moved.pop("labels"))


def passes(prepared: Prepared, model: TunedModel) -> Iterator[Pass]:
    """A pass for each batch of training rows, once, in a random order."""
    settings = prepared.recipe.training
    rows, size = prepared.examples.train, settings.batch_size // settings.microbatches
    generator = torch.Generator().manual_seed(prepared.recipe.seed)
    order = torch.randperm(len(rows), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield partial(loss_of, model, [rows[index] for index in order[start : start + size]])
