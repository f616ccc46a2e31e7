"""Whether a training was of any use: is the model better than one that never looked at a row?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pefttools.tasks.task import IGNORE, Evaluation, Example, Task
from pefttools.training.selection import Selection
from pefttools.tuned import TunedModel

#: share by which a loss may fall by rounding, or by steps too small to matter
_ROUNDING = 1e-3


def mean_loss(model: TunedModel, examples: Sequence[Example], batch_size: int) -> float:
    """Training loss per label, as the model is now, in eval mode.

    Args:
        model: what is asked.
        examples: encoded, with labels.
        batch_size: examples at a time.
    """
    task = model.spec.task
    total, count = 0.0, 0
    with model.asking():
        for start in range(0, len(examples), batch_size):
            rows = [examples[index] for index in range(start, min(start + batch_size, len(examples)))]
            batch = {name: tensor.to(model.device) for name, tensor in task.collate(rows, model.tokenizer).items()}
            labels = batch.pop("labels")
            total += float(model(**batch, targets=labels, num_items_in_batch=1))
            count += int(torch.count_nonzero(labels != IGNORE))
    return total / max(count, 1)


def why_not_learned(
    task: Task[Any],
    selection: Selection,
    evaluation: Evaluation,
    examples: Sequence[Example],
    loss_before: float | None,
) -> str | None:
    """Why a trained model is no better than an untrained one, in one sentence; None: it is better.

    Where there are labels, it must give more than one answer, and be better than always giving the most frequent one,
    by the metric that chooses the best model. Elsewhere its loss must be lower than before training.

    Args:
        task: of the model.
        selection: the metric that chooses.
        evaluation: of the trained model on the validation rows.
        examples: the validation rows, encoded.
        loss_before: `mean_loss` of the model before training, where it is known.
    """
    chance = task.chance(examples)
    if not chance:
        loss = evaluation.metrics.get("loss")
        if loss is None or loss_before is None or loss < (1 - _ROUNDING) * loss_before:
            return None
        return f"validation loss is {loss:.4f}, no lower than the {loss_before:.4f} before training"
    answers = {str(answer) for answer in evaluation.answers()}
    if len(answers) == 1 and len({str(entry["reference"]) for entry in evaluation.predictions}) > 1:
        return f"every validation row gets the same answer, {answers.pop()!r}"
    own = selection if selection.metric in chance else Selection(task.primary_metric, True)
    if own.score(evaluation.metrics) > own.score(chance):
        return None
    return (
        f"validation {own.metric} is {evaluation.metrics[own.metric]:.4f}, no better than {chance[own.metric]:.4f}, "
        "which is what always giving the most frequent label reaches"
    )
