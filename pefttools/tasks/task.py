"""The contract of a task. Importing a task must not import torch, so that listing tasks stays fast."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import DataError
from pefttools.methods import Method, Target
from pefttools.registry import Registry
from pefttools.tasks.evaluation import Evaluation as Evaluation
from pefttools.tasks.evaluation import Prediction as Prediction
from pefttools.tasks.roles import Role as Role
from pefttools.tasks.scoring import ConfigT
from pefttools.tasks.scoring import TaskConfig as TaskConfig
from pefttools.tasks.scoring import TextTaskConfig as TextTaskConfig
from pefttools.tasks.served import ServedTask
from pefttools.tasks.types import IGNORE as IGNORE
from pefttools.tasks.types import LABELLED as LABELLED
from pefttools.tasks.types import Batch as Batch
from pefttools.tasks.types import Example as Example
from pefttools.tasks.types import Modality as Modality
from pefttools.tasks.types import Progress as Progress

if TYPE_CHECKING:
    from torch import nn

    from pefttools.bases import Base, BaseVariant


@dataclass(frozen=True)
class TaskModel:
    """A base model made ready for a task.

    Attributes:
        transformer: the transformers model, frozen.
        head: the task head, if it is ours.
        head_kind: name of the head, kept in the manifest.
        target: what the task needs from a method.
        processor: see `Task.processor`.
    """

    transformer: nn.Module
    head: nn.Module | None
    head_kind: str
    target: Target
    processor: Any


class Task(ServedTask[ConfigT]):
    """A task, with its options."""

    #: what the model reads
    modality: ClassVar[Modality] = "text"
    #: the columns of the data; the first is what a prediction of plain inputs reads
    roles: ClassVar[Mapping[str, Role]]
    #: transformers' auto class of the model with the task's own head, and PEFT's name of what that model does
    auto_class: ClassVar[str] = ""
    peft_task_type: ClassVar[str] = ""
    #: whether a row's logits are those of its one label, as a softmax takes them
    one_label: ClassVar[bool] = False
    #: whether what is learned is a part of the input itself
    self_supervised: ClassVar[bool] = False
    #: whether a row's answer is a vector, an array of floats
    embeds: ClassVar[bool] = False
    #: role of a text that models read along with the first one
    second_text: ClassVar[str | None] = None
    #: whether outputs have names, which the training data or a recipe gives
    has_labels: ClassVar[bool] = False
    #: whether a prediction has scores of further answers, though outputs have no names
    ranks: ClassVar[bool] = False

    @classmethod
    def upgraded(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options that an earlier version stored, as they must be given now to mean the same."""
        return options

    @classmethod
    def inputs(cls) -> frozenset[str]:
        """Roles that a prediction is made from."""
        return frozenset(name for name, role in cls.roles.items() if role.is_input)

    @classmethod
    def files_in(cls) -> frozenset[str]:
        """Roles whose cells may be a file: its path, or its bytes."""
        return frozenset(name for name, role in cls.roles.items() if role.kind in ("image", "audio"))

    @classmethod
    def misspellable(cls) -> frozenset[str]:
        """Roles whose words may have typos without changing what is right: texts that are read and not learned."""
        return frozenset(name for name, role in cls.roles.items() if role.is_input and role.kind in ("text", "words"))

    @classmethod
    def main_role(cls) -> str:
        """The role of plain inputs, as of a list of texts."""
        return next(iter(cls.roles))

    @classmethod
    def columns(cls, *, labelled: bool = True) -> dict[str, bool]:
        """Role -> whether a table must have it, to train on or, without labels, to predict."""
        return {name: role.required and (labelled or role.is_input) for name, role in cls.roles.items()}

    def outputs(self, labels: Sequence[str]) -> int:
        """Number of the head's outputs."""
        return len(labels)

    @property
    def why_no_head(self) -> str | None:
        """Why there is no head that could be trained alone; None if there is one."""
        return "the task has none" if self.generates else None

    def check_roles(self, given: Collection[str], trained: Collection[str]) -> None:
        """Refuse rows that are made of different parts than those that a model was trained on.

        Args:
            given: roles of the rows.
            trained: roles of the training data; empty if they are not known.

        Raises:
            DataError: a part is missing, or there is one too many.
        """
        if not trained:
            return
        given, trained = set(given) & self.inputs(), set(trained) & self.inputs()
        for role in sorted(given ^ trained):
            problem = "has no" if role in trained else "also has"
            was = "with" if role in trained else "without"
            raise DataError(
                f"the input {problem} {role!r}, but the model was trained {was} it",
                hint=f"Give rows with: {', '.join(sorted(trained))}.",
            )

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        """The same task with options that are given in words, such as ``balanced``, worked out on the training rows.

        Raises:
            ConfigError: options that don't fit these labels.
        """
        return self

    def check_with(self, processor: Any) -> None:
        """Check options that depend on the base's tokenizer, or on what else reads its inputs.

        Raises:
            ConfigError: they don't fit it.
        """
        return

    def planned(self) -> Self:
        """The same task without options that need rows, and that change no memory."""
        return self

    def strata(self, row: Row) -> Hashable | None:
        """What splits and limits keep the shares of, such as a row's label; None if rows are drawn regardless."""
        return None

    def data_notes(self, tables: Mapping[str, Table], labels: Sequence[str]) -> list[str]:
        """What is unusual about the rows of each split, one line each."""
        return []

    def is_known(self, table: Table, index: int, labels: Collection[str]) -> bool:
        """Whether a row's label is one of those that are learned; always true if the task has none.

        Raises:
            DataError: it is missing, or not one label.
        """
        return True

    def identity(self, row: Row) -> Hashable:
        """What makes two rows the same input."""
        cells = (row.get(role) for role in sorted(self.inputs()))
        return tuple(hash(cell) if isinstance(cell, bytes) else str(cell) for cell in cells)

    @abstractmethod
    def labels(self, train: Table) -> list[str]:
        """Label names, in the order of the head's outputs; empty if the task has none."""

    @abstractmethod
    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        """Check every row.

        Raises:
            DataError: an empty text, an unknown label; names file, row and column.
        """

    def processor(self, base: Base) -> Any:
        """What encodes rows for a base, by one of transformers' auto classes: here its tokenizer.

        Raises:
            BaseModelError: the base has none.
        """
        from pefttools.bases.loading import load_tokenizer

        return load_tokenizer(base)

    def input_limit(self, base: Base) -> int | None:
        """Size of the longest input that a base takes; None if it sets no limit.

        Raises:
            BaseModelError: no configuration, or one of no known model.
        """
        from pefttools.bases.positions import text_limit

        return text_limit(base)

    def has_pairs(self, roles: Collection[str]) -> bool:
        """Whether the model reads two texts of a row together, which token types may mark."""
        return False

    def check_inputs(self, method: Method[Any], roles: Collection[str], processor: Any) -> None:
        """Refuse a method that drops an input of the model which rows of these roles need.

        Args:
            method: the method that wraps the model.
            roles: of the rows.
            processor: the base's processor.

        Raises:
            ConfigError: names the input.
        """
        return

    @abstractmethod
    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        """Load the base for this task.

        Args:
            base: the base.
            variant: number format of its weights.
            labels: label names.
            head_kind: that of a saved artifact; None to follow the options.
        """

    @abstractmethod
    def encode(self, table: Table, processor: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        """One example per row, cut to `longest_input`.

        Args:
            table: the rows.
            processor: the base's processor.
            labels: label names.
            labelled: whether to include what is to be learned; False for rows to predict.

        Returns:
            Parts by name, as `collate` takes them; ``labels``, if labelled; ``length``, if something may be cut: its
            size before that.

        Raises:
            DataError: a row that can't be encoded; names file, row and column.
        """

    def why_not_merged(self, kind: str, format: str) -> str | None:
        """Why a merged model would not give this task's answers elsewhere; None if it would.

        Args:
            kind: kind of the head; ``model`` for that of transformers' own class.
            format: see `pefttools.merge`.
        """
        if self.modality != "text":
            return f"a merged model is compared with its adapter on texts, and the task {self.name!r} reads none"
        if kind == "model" and format == "transformers":
            return None
        return f"a merged model has no place for the head of the task {self.name!r}"

    def probe(self, processor: Any) -> Batch:
        """One row, to see whether a model gives numbers at all."""
        batch: Batch = dict(processor("A short text, as anybody might write it.", return_tensors="pt"))
        batch.pop("token_type_ids", None)
        return batch

    def example_notes(self, examples: Sequence[Example]) -> list[str]:
        """What became of the encoded rows of a split, one line each; `data_notes` is about the rows themselves."""
        return []

    def idle_options(self, processor: Any, train: Table) -> list[str]:
        """Options that were given and have no effect on this base and these rows, each with the reason."""
        return []


tasks: Registry[Task[Any]] = Registry("pefttools.tasks", "task", base="pefttools.tasks.task:Task")
