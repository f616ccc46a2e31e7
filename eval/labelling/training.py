"""A model of the rows that have a label so far, and what it says of the others."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import ConfigError
from pefttools.objectives.features import check_one_vector
from pefttools.progress import Reporter
from pefttools.recipe import Recipe, validate
from pefttools.tasks import Task
from pefttools.training.head import features_of, head_layer
from pefttools.training.run import train
from pefttools.training.store import Stored

from ..row_files import write_rows
from .spec import LabellingSpec
from .strategies import Pool


def check(task: Task[Any]) -> None:
    """Refuse a task without one label per row.

    Raises:
        ConfigError: says why.
    """
    if not task.one_label or task.modality == "image-text":
        raise ConfigError(
            f"rows of the task {task.name!r} can't be chosen by what a head says of them",
            hint="Active learning takes tasks with one label per row and a linear head.",
        )


def train_on(
    spec: LabellingSpec,
    rows: Sequence[Row],
    labels: Sequence[str],
    folder: Path,
    seed: int,
    reporter: Reporter,
    *,
    test: Path | None = None,
) -> Stored:
    """Train on labelled rows.

    Args:
        spec: of the labelling.
        rows: with their labels, by role.
        labels: all that there are.
        folder: for the rows and the artifact.
        seed: of the training.
        reporter: told about progress.
        test: file of test rows; None to test on nothing.
    """
    path = folder / "rows.parquet"
    write_rows(path, rows)
    output = folder / "artifact"
    shutil.rmtree(output, ignore_errors=True)
    task = {"name": spec.task} if isinstance(spec.task, str) else dict(spec.task)
    recipe = {
        "base": spec.base,
        "revision": spec.revision,
        "variant": spec.variant,
        "method": spec.method,
        "task": {**task, "labels": list(labels)},
        "objective": spec.objective,
        # Nothing is chosen on these: with so few labels all are learned, and the last state is kept.
        "data": {"train": str(path), "validation": str(path), "test": None if test is None else str(test)},
        "training": {**spec.training.model_dump(mode="json"), "checkpoints": False, "keep_best": False},
        "selection": spec.selection.model_dump(mode="json"),
        "seed": seed,
        "output": str(output),
        "storage": "float32",
    }
    stored = train(validate(Recipe, recipe, "labelling"), reporter)
    assert stored is not None, "one process trains"
    return stored


def said_of(stored: Stored, rest: Table, labelled: Table, batch_size: int) -> Pool:
    """What a model says of rows without labels, and of those that have one."""
    model = stored.model
    task = model.spec.task
    layer = head_layer(model)

    def features(table: Table) -> torch.Tensor:
        examples = task.encode(table, model.processor, model.labels, labelled=False)
        return check_one_vector("active learning", features_of(model, layer, examples, batch_size))

    found = features(rest)
    with torch.no_grad():
        logits = layer.float()(found.to(model.device)).cpu()
    probabilities = logits.double().softmax(-1).numpy()
    return Pool(probabilities, np.asarray(found.double()), np.asarray(features(labelled).double()))
