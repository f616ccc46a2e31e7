"""Whether a training was of any use: is the model better than one that never looked at a row?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from pefttools.compute.moving import all_moved
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
            batch = all_moved(task.collate(rows, model.tokenizer), model.device)
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
    by the metric that chooses the best model, or tell the labels apart by more than chance does: a model that weighs
    rare labels may well be less often right. Elsewhere its loss must be lower than before training.

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
    answers = Counter(map(str, evaluation.answers()))
    references = [str(entry["reference"]) for entry in evaluation.predictions]
    if len(set(references)) < 2:
        return None  # nothing could be told apart
    if len(answers) == 1:
        return f"every validation row gets the same answer, {next(iter(answers))!r}"
    own = selection if selection.metric in chance else Selection(task.primary_metric, True)
    if own.score(evaluation.metrics) > own.score(chance) or _tells_apart(
        list(map(str, evaluation.answers())), references
    ):
        return None
    return (
        f"validation {own.metric} is {evaluation.metrics[own.metric]:.4f}, no better than {chance[own.metric]:.4f}, "
        "which is what always giving the most frequent label reaches"
    )


def _tells_apart(answers: Sequence[str], references: Sequence[str]) -> bool:
    """Whether the mean recall of the labels is above that of answers given by chance, by two standard errors."""
    counts, given = Counter(references), Counter(answers)
    right = Counter(one for one, truth in zip(answers, references, strict=True) if one == truth)
    shares = {label: given[label] / len(answers) for label in counts}
    excess = sum(right[label] / count - shares[label] for label, count in counts.items()) / len(counts)
    error = math.sqrt(sum(shares[label] * (1 - shares[label]) / count for label, count in counts.items())) / len(counts)
    return excess > 2 * error
