"""Teachers: trained artifacts whose answers to the training rows are learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.artifact.load import find_base, load_verified
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.reading import hold_weights
from pefttools.bases import Base
from pefttools.compute.moving import all_moved
from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.files import cache_dir, write_bytes_atomic
from pefttools.objectives import Objective
from pefttools.objectives.layers import layer_modules, layers_of, mean_of_each, outputs_of
from pefttools.progress import Reporter
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.task import Example, Task
from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Teacher:
    """A verified artifact.

    Attributes:
        folder: its path.
        manifest: its manifest.
        digest: of the manifest, and so of everything in the artifact.
        base: the base that it was trained on.
    """

    folder: Path
    manifest: Manifest
    digest: str
    base: Base

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
        manifest, digest = held.manifest, held.digest
    if (passages := manifest.passages()) is not None:
        raise ConfigError(
            f"the teacher {folder} was {passages}: it can't be asked about rows as they are",
            hint="Let it answer the rows with `pefttools predict --knowledge`, and train on its answers.",
        )
    entry = manifest.task
    if entry.name != task.name:
        raise ConfigError(f"the teacher {folder} was trained for the task {entry.name!r}, not {task.name!r}")
    if unlike := sorted(set(labels) ^ set(entry.labels)):
        where = "the teacher does not know" if unlike[0] in labels else "the training rows do not have"
        raise ConfigError(
            f"the teacher {folder} has other labels than the training rows: {where} {unlike[0]!r}",
            hint="Name all labels in task.labels, or train the teacher on the same ones.",
        )
    return Teacher(folder, manifest, digest, find_base(manifest))


def check_layers(objective: Objective[Any], base: Base, teachers: Sequence[Teacher]) -> None:
    """Refuse to learn the states of layers that do not exist, or have another size.

    Raises:
        ConfigError: names them.
    """
    who = f"the objective {objective.name!r}"
    learned_layers(objective, base, teachers)
    for teacher in teachers if objective.learns_states() else ():
        mine, other = layers_of(base, who), layers_of(teacher.base, who)
        if mine.size != other.size:
            raise ConfigError(
                f"{who} can't learn the hidden states of the teacher {teacher.folder}, of size {other.size} "
                f"({other.base}): those of {mine.base} have size {mine.size}",
                hint="Leave them out and learn its answers alone, or take a teacher with hidden states of this size.",
            )


def learned_layers(objective: Objective[Any], base: Base, teachers: Sequence[Teacher]) -> list[Mapping[int, int]]:
    """Of each teacher, which of its layers each layer of a model on `base` is to learn; none if no states are learned.

    Raises:
        ConfigError: there is no such layer.
    """
    if not objective.learns_states():
        return [{} for _ in teachers]
    who = f"the objective {objective.name!r}"
    mine = layers_of(base, who).count
    return [objective.learned_layers(mine, layers_of(one.base, who).count) for one in teachers]


@dataclass(frozen=True)
class Answers:
    """What a teacher gave for each row.

    Attributes:
        logits: ``[rows, labels]`` in float32.
        states: by its layer, from 1, the mean of the hidden states over the tokens, ``[rows, hidden]`` in float32.
    """

    logits: torch.Tensor
    states: Mapping[int, torch.Tensor]


def answers_of(
    teacher: Teacher,
    table: Table,
    labels: Sequence[str],
    batch_size: int,
    reporter: Reporter,
    layers: Sequence[int] = (),
) -> Answers:
    """A teacher's answers to each row, from the cache where they are there already.

    Args:
        teacher: the artifact.
        table: the rows.
        labels: of the student, in its order.
        batch_size: rows of one forward pass.
        reporter: told of progress.
        layers: of the teacher, whose states are wanted too.

    Raises:
        ConfigError: the artifact was replaced since the training was prepared; its layers can't be told apart.
    """
    import torch
    from safetensors.torch import load, save

    wanted = sorted(set(layers))
    facts = [teacher.digest, table.digest(), list(labels), *([wanted] if wanted else [])]
    file = cache_dir("teachers") / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.safetensors"
    if file.is_file():
        return _read(load(file.read_bytes()), wanted)
    with hold_weights(teacher.folder) as held:
        if held.digest != teacher.digest:
            raise ConfigError(f"the teacher {teacher.folder} was replaced since the training began")
        model = load_verified(held.folder, held.manifest, find_base(held.manifest))
    task = model.spec.task
    examples = task.encode(table, model.processor, model.labels, labelled=False)
    with reporter.step(f"asking the teacher {teacher.folder.name}", "rows") as advance:
        found = in_order_of_size(
            examples, task.sizes(examples), batch_size, lambda batch: _asked(model, batch, wanted), advance
        )
    answers = {name: torch.stack([row[name] for row in found]) for name in found[0]}
    answers["logits"] = answers["logits"][:, teacher.order(labels)].contiguous()
    write_bytes_atomic(file, save(answers))
    return _read(answers, wanted)


def _asked(model: TunedModel, examples: list[Example], layers: Sequence[int]) -> list[dict[str, torch.Tensor]]:
    """By row, the logits, and the mean states of some layers."""
    from pefttools.objectives.inputs import Texts

    who = "a teacher"
    batch = model.spec.task.collate(examples, model.processor)
    modules = layer_modules(model.transformer, who) if layers else []
    with outputs_of(modules, layers) as given:
        answers = {"logits": model.run_batch(dict(batch)).float().cpu()}
    texts = Texts(all_moved(batch, model.device))
    means = mean_of_each(given, texts, len(examples), who)
    answers |= {_name(number): state.cpu() for number, state in means.items()}
    return [{name: values[row] for name, values in answers.items()} for row in range(len(examples))]


def _name(layer: int) -> str:
    return f"states.{layer}"


def _read(answers: Mapping[str, torch.Tensor], layers: Sequence[int]) -> Answers:
    return Answers(answers["logits"], {number: answers[_name(number)] for number in layers})
