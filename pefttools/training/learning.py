"""Whether training was of any use: is the model better than one that never looked at a row?"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pefttools.compute.moving import all_moved
from pefttools.tasks.task import IGNORE, Evaluation, Example, Task
from pefttools.training.selection import Selection
from pefttools.tuned import TunedModel

#: relative decrease of a loss that rounding, or steps too small to matter, may cause
_ROUNDING = 1e-3


def mean_loss(model: TunedModel, examples: Sequence[Example], batch_size: int) -> float:
    """Training loss per label, as the model is now, in eval mode.

    Args:
        model: the model.
        examples: encoded, with labels.
        batch_size: examples at a time.
    """
    task = model.spec.task
    examples = task.training_set(examples)
    total, count = 0.0, 0
    with model.inference_mode():
        for start in range(0, len(examples), batch_size):
            rows = [examples[index] for index in range(start, min(start + batch_size, len(examples)))]
            batch = all_moved(task.collate(rows, model.processor), model.device)
            labels = batch.pop("labels")
            total += float(model(**batch, targets=labels, num_items_in_batch=1))
            count += int(torch.count_nonzero(labels != IGNORE))
    return total / max(count, 1)


def measured_before(model: TunedModel, examples: Sequence[Example], batch_size: int) -> dict[str, float]:
    """What a model must beat by training, if its task does not say: metrics in `Task.learned_by`, as they are now.

    Args:
        model: the model.
        examples: encoded, with labels.
        batch_size: examples at a time.
    """
    task = model.spec.task
    if task.learned_by == ("loss",):
        return {"loss": mean_loss(model, examples, batch_size)}
    found = task.without_answers().evaluate(model, examples, batch_size=batch_size).metrics
    return {name: found[name] for name in task.learned_by}


def knows_a_bar(task: Task[Any], examples: Sequence[Example], labels: Sequence[str]) -> bool:
    """Whether the task says what a model must beat on some rows; if not, its loss before training is the bar."""
    if type(task).uninformed is Task.uninformed:
        return False
    return task.uninformed([task.reference(one, labels) for one in examples], labels) is not None


def why_not_learned(
    task: Task[Any],
    selection: Selection,
    evaluation: Evaluation,
    labels: Sequence[str],
    before: Mapping[str, float] | None,
) -> str | None:
    """Why a trained model is no better than an untrained one, in one sentence; None if it is better.

    If the task knows the best predictions that ignore the input, such as always the most frequent label, the model must
    give more than one answer, and be better than those by the metric that chooses the best model, or distinguish rows
    better than chance: a model that weights rare labels may well be right less often. Otherwise its loss, or another of
    the metrics in `Task.learned_by`, must be better than before training.

    Args:
        task: the model's task.
        selection: the metric that chooses.
        evaluation: that of the trained model on the validation rows.
        labels: label names.
        before: what `measured_before` gave for the model before training, if it is known.
    """
    references = evaluation.references
    uninformed = task.uninformed(references, labels)
    if uninformed is None:
        return _no_better(task, evaluation.metrics, before or {})
    if all(one == references[0] for one in references):
        return None  # there is nothing to distinguish
    answers = evaluation.answers()
    if all(one == answers[0] for one in answers):
        return f"every validation row gets the same answer, {reprlib.repr(answers[0])}"
    bar = Evaluation.of(task.metrics, uninformed, references).metrics
    first = task.metrics[0]
    own = selection if selection.metric in bar else Selection(first.name, first.measure.higher_is_better is not False)
    if math.isnan(bar[own.metric]):  # such as a correlation with a constant
        own = Selection("loss", greater_is_better=False)
    if own.score(evaluation.metrics) > own.score(bar) or task.tells_apart(evaluation):
        return None
    return (
        f"validation {own.metric} is {evaluation.metrics[own.metric]:.4f}, no better than the {bar[own.metric]:.4f} of "
        f"the best answer that ignores the input, {uninformed[0].shown(uninformed[0].answer)!r} for every row"
    )


def _no_better(task: Task[Any], found: Mapping[str, float], before: Mapping[str, float]) -> str | None:
    """In which metrics a model is no better than before training; None if it is better in one, or none is known."""
    higher = {one.name: one.measure.higher_is_better is True for one in task.metrics}
    known = [name for name in before if name in found]
    said = []
    for name in known:
        sign = 1 if higher.get(name, False) else -1
        if sign * (found[name] - before[name]) > _ROUNDING * abs(before[name]):
            return None
        than = "no higher" if sign > 0 else "no lower"
        said.append(f"validation {name} is {found[name]:.4f}, {than} than the {before[name]:.4f} before training")
    return ", and ".join(said) or None
