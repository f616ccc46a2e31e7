"""Memory before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pefttools.planning.ask import asked
from pefttools.planning.device import find_device
from pefttools.planning.plan import Choice, Row


def plan(
    base: str,
    *,
    task: Choice | None = None,
    methods: Sequence[Choice] | None = None,
    variants: Sequence[str] | None = None,
    labels: int = 2,
    gpu: str = "cpu",
    overrides: Sequence[str] = (),
    **shape: Any,
) -> list[Row]:
    """Predict the memory of trainings; no weights are loaded.

    Args:
        base: folder (one with nothing but ``config.json`` will do), ``package:`` reference or hub id; or the path of a
            recipe, from which everything comes that is not given here.
        task: name of a task, or a mapping with name and options.
        methods: names, or mappings with name and options.
        variants: number formats of the base's weights.
        labels: number of labels, where the task has labels.
        gpu: a card, ``gpu`` for one of no particular size, or ``cpu``: this machine's kernels.
        overrides: ``field.field=value`` on a recipe.
        shape: fields of `pefttools.planning.plan.Shape`, as ``batch_size=8, length=512``.

    Returns:
        One row per method and variant; sizes in bytes.

    Raises:
        PeftToolsError: a name, an option or a combination that can't work, or can't be traced.

    Example:
        >>> (row,) = pefttools.plan("path/to/base", methods=["lora"], gpu="t4", batch_size=8)
        >>> row.peak_bytes < 16 * 2**30
        True
    """
    question = asked(base, task, methods, variants, labels, overrides, shape, find_device(gpu))
    return [planned.row(question.shape) for planned in question.planned]
