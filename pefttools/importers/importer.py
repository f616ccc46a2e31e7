"""The contract of an importer: it knows one foreign adapter format. Importing its module must not import torch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pefttools.errors import ArtifactError, ConfigError
from pefttools.registry import Registry

if TYPE_CHECKING:
    from pefttools.bases import Base
    from pefttools.tasks import TaskModel


@dataclass(frozen=True)
class Foreign:
    """What an importer found in a folder.

    Attributes:
        method: name of the pefttools method that loads it, and its options.
        task: name of the task; None if the folder does not say.
        head: kind of task head, as in a manifest.
        labels: label names that the folder gives; empty if it gives none.
        outputs: number of outputs of the task head; None if it has no head of its own, or the folder does not say.
        virtual: number of virtual tokens that it puts before a text.
        trained: number of trained parameters, including the head's.
        in_head: number of trained parameters in the head.
        storage: number format of the stored tensors, e.g. ``float32``.
        files: the files that were read.
        declared_base: the folder's name for its base.
        details: what the method's options can't express.
    """

    method: dict[str, Any]
    task: str | None
    head: str
    labels: tuple[str, ...]
    outputs: int | None
    virtual: int
    trained: int
    in_head: int
    storage: str
    files: tuple[Path, ...]
    declared_base: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def configured_labels(file: Path) -> tuple[str, ...]:
    """Label names in a transformers ``config.json``; empty if it names none.

    Raises:
        ArtifactError: damaged.
        ConfigError: it describes a head that does not choose one label.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        named = config.get("id2label") or {}
        names = tuple(str(named[key]) for key in sorted(named, key=int))
        problem = config.get("problem_type")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{file} is damaged: {error}") from error
    if problem in ("regression", "multi_label_classification"):
        raise ConfigError(
            f"{file} says problem_type={problem}: no task here takes a head that does not choose one label"
        )
    return names


class Importer(ABC):
    """One foreign adapter format."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: files to fetch from a hub, as globs
    patterns: ClassVar[Sequence[str]]

    @abstractmethod
    def recognizes(self, folder: Path) -> bool:
        """Whether a folder is of this format, even if it is damaged."""

    @abstractmethod
    def read(self, folder: Path) -> Foreign:
        """Read a folder. Nothing in it is ever executed.

        Raises:
            ArtifactError: a file is missing or damaged.
            ConfigError: something that can't be represented; names it.
        """

    @abstractmethod
    def check(self, folder: Path, foreign: Foreign, built: TaskModel, base: Base) -> Foreign:
        """Compare names and shapes with a base that is ready for the task.

        Returns:
            What was read; the method's options may be shorter, now that the base is known.

        Raises:
            ArtifactError: it does not fit, or neither it nor the base has a weight that the task needs.
        """

    @abstractmethod
    def write(self, folder: Path, output: Path) -> None:
        """Write the files that the method's `load` reads into `output`."""


importers: Registry[Importer] = Registry(
    "pefttools.importers", "importer", base="pefttools.importers.importer:Importer"
)
