"""Training rows that are shown before every prompt: in-context examples.

Brown et al.: Language Models are Few-Shot Learners, https://arxiv.org/abs/2005.14165
"""

from __future__ import annotations

import hashlib

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.tasks.language.causal_lm_config import ShownExample


def drawn_examples(train: Table, count: int) -> list[ShownExample]:
    """Rows to show, each answer in turn, so that no answer is shown twice before all have been shown once.

    Which rows, and in which order, depends on their texts alone: not on their order, nor on a seed.

    Args:
        train: the training rows.
        count: how many.

    Raises:
        ConfigError: the rows are not prompts with completions, or are too few.
    """
    if not {"prompt", "completion"} <= train.columns.keys():
        raise ConfigError(
            f"task.shots: {train.source} has no columns prompt and completion, of which examples could be made",
            hint="Write them in task.examples.",
        )
    rows = {
        ShownExample(prompt=row["prompt"], completion=row["completion"].strip())
        for row in train.rows
        if row.get("messages") is None
    }
    if len(rows) < count:
        raise ConfigError(f"task.shots is {count}, but there are only {len(rows)} different training rows")
    by_answer: dict[str, list[ShownExample]] = {}
    for row in sorted(rows, key=_order):
        by_answer.setdefault(row.completion, []).append(row)
    turns = ((place, _order(row), row) for own in by_answer.values() for place, row in enumerate(own))
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])[:count]]


def _order(row: ShownExample) -> str:
    return hashlib.sha256(f"{row.prompt}\0{row.completion}".encode()).hexdigest()
