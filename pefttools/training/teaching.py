"""Teachers: trained artifacts whose answers to the training rows are learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.artifact.load import find_base, load_verified
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.reading import hold_weights
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.files import cache_dir, write_bytes_atomic
from pefttools.progress import Reporter
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.task import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Teacher:
    """A verified artifact.

    Attributes:
        folder: its path.
        manifest: its manifest.
        digest: of the manifest, and so of everything in the artifact.
    """

    folder: Path
    manifest: Manifest
    digest: str

    def order(self, labels: Sequence[str]) -> list[int]:
        """Which of its outputs is that of each label."""
        return [self.manifest.task.labels.index(label) for label in labels]


def open_teacher(folder: Path, task: Task[Any], labels: Sequence[str]) -> Teacher:
    """Verify an artifact that is to teach.

    Args:
        folder: the artifact.
        task: of the student.
        labels: of the student.

    Raises:
        ArtifactError: it is damaged.
        BaseModelError: its base can't be found.
        ConfigError: it is of another task, or does not know a label.
    """
    with hold_weights(folder) as held:
        teacher = Teacher(folder, held.manifest, held.digest)
    if (passages := teacher.manifest.passages()) is not None:
        raise ConfigError(
            f"the teacher {folder} was {passages}: it can't be asked about rows as they are",
            hint="Let it answer the rows with `pefttools predict --knowledge`, and train on its answers.",
        )
    entry = teacher.manifest.task
    if entry.name != task.name:
        raise ConfigError(f"the teacher {folder} was trained for the task {entry.name!r}, not {task.name!r}")
    if unlike := sorted(set(labels) ^ set(entry.labels)):
        where = "the teacher does not know" if unlike[0] in labels else "the training rows do not have"
        raise ConfigError(
            f"the teacher {folder} has other labels than the training rows: {where} {unlike[0]!r}",
            hint="Name all labels in task.labels, or train the teacher on the same ones.",
        )
    find_base(teacher.manifest)
    return teacher


def answers_of(
    teacher: Teacher, table: Table, labels: Sequence[str], batch_size: int, reporter: Reporter
) -> torch.Tensor:
    """A teacher's logits for each row, ``[rows, labels]`` in float32, from the cache where they are there already.

    Args:
        teacher: the artifact.
        table: the rows.
        labels: of the student, in its order.
        batch_size: rows of one forward pass.
        reporter: told of progress.

    Raises:
        ConfigError: the artifact was replaced since the training was prepared.
    """
    import torch
    from safetensors.torch import load, save

    key = hashlib.sha256(json.dumps([teacher.digest, table.digest(), list(labels)]).encode()).hexdigest()
    file = cache_dir("teachers") / f"{key}.safetensors"
    if file.is_file():
        return load(file.read_bytes())["logits"]
    with hold_weights(teacher.folder) as held:
        if held.digest != teacher.digest:
            raise ConfigError(f"the teacher {teacher.folder} was replaced since the training began")
        model = load_verified(held.folder, held.manifest, find_base(held.manifest))
    task = model.spec.task
    examples = task.encode(table, model.processor, model.labels, labelled=False)
    with reporter.step(f"asking the teacher {teacher.folder.name}", "rows") as advance:
        found = in_order_of_size(
            examples, task.sizes(examples), batch_size, lambda batch: list(model.run(batch).float().cpu()), advance
        )
    logits = torch.stack(list(found))[:, teacher.order(labels)].contiguous()
    write_bytes_atomic(file, save({"logits": logits}))
    return logits
