"""The contract of a task. Importing a task must not import torch, so that listing tasks stays fast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data import Table
from pefttools.data.columns import Row
from pefttools.errors import ConfigError, DataError
from pefttools.methods import Target
from pefttools.registry import Registry
from pefttools.tasks.evaluation import Evaluation as Evaluation
from pefttools.tasks.metrics import MetricChoice, metric_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.tasks.metrics import NamedMetric
    from pefttools.tuned import TunedModel

Example = dict[str, Any]
Batch = dict[str, "torch.Tensor"]
#: label of what no loss stands on
IGNORE = -100
#: called with the number of examples done and of all
Progress = Callable[[int, int], None]


class TaskConfig(BaseModel):
    """Options that every task has."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    max_length: int = Field(128, ge=8, description="longest input, in tokens; longer ones are cut, which is said")
    metrics: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="further metrics: a name, or a name with options, e.g. {name: f1, average: macro}; what pefttools "
        "does not bring along is loaded by the evaluate library, from a hub or the path of a script",
    )


ConfigT = TypeVar("ConfigT", bound=TaskConfig)


@dataclass(frozen=True)
class Built:
    """A base model made ready for a task.

    Attributes:
        transformer: the transformers model, frozen.
        head: the task head, where it is ours.
        head_kind: name of the head, kept in the manifest.
        target: what the task asks of a method.
        tokenizer: transformers' tokenizer.
    """

    transformer: nn.Module
    head: nn.Module | None
    head_kind: str
    target: Target
    tokenizer: Any


class Task(ABC, Generic[ConfigT]):
    """A task, with its options."""

    name: ClassVar[str]
    summary: ClassVar[str]
    config: ClassVar[type[TaskConfig]]
    #: role of a column -> whether the data must have it for training
    roles: ClassVar[dict[str, bool]]
    #: roles that a prediction needs
    inputs: ClassVar[frozenset[str]]
    #: transformers' auto class of the model with the task's own head; a pool serves the heads of those that it knows
    auto_class: ClassVar[str] = ""
    #: metric that chooses the best model and heads a comparison, where a recipe names no other; more is better
    primary_metric: ClassVar[str]
    #: metrics that every evaluation gives -> whether more is better
    measured: ClassVar[Mapping[str, bool]] = {}
    #: names of the further metrics that the task brings along; of each, more is better
    brought: ClassVar[Collection[str]] = ()

    def __init__(self, config: ConfigT) -> None:
        self.options: ConfigT = config

    @classmethod
    def upgraded(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options that an earlier version stored, as they must be given now to mean the same."""
        return options

    def predict_roles(self) -> dict[str, bool]:
        """Roles of a table that is only to be predicted."""
        return {role: required and role in self.inputs for role, required in self.roles.items()}

    def check_roles(self, given: Collection[str], trained: Collection[str]) -> None:
        """Refuse rows that are made of other parts than those that a model was trained on.

        Args:
            given: roles of the rows.
            trained: roles of the training data; empty where it is not known.

        Raises:
            DataError: a part is missing, or one too many.
        """
        if not trained:
            return
        given, trained = set(given) & self.inputs, set(trained) & self.inputs
        for role in sorted(given ^ trained):
            problem = "has no" if role in trained else "also has"
            was = "with" if role in trained else "without"
            raise DataError(
                f"the input {problem} {role!r}, but the model was trained {was} it",
                hint=f"Give rows with: {', '.join(sorted(trained))}.",
            )

    def measures(self) -> dict[str, bool]:
        """Metrics that `evaluate` gives with these options -> whether more is better; but for `foreign_metrics`."""
        foreign = self.foreign_metrics()
        brought = (metric_name(choice) for choice in self.options.metrics if choice not in foreign)
        return {**dict.fromkeys(brought, True), self.primary_metric: True, **self.measured}

    def foreign_metrics(self) -> list[MetricChoice]:
        """Of ``task.metrics``, those that the task does not bring along: only a trial tells what they give."""
        return [one for one in self.options.metrics if metric_name(one, options=False) not in self.brought]

    def chance(self, examples: Sequence[Example]) -> dict[str, float]:
        """Metrics of the best answer that looks at no input; empty where there is none that everyone knows."""
        return {}

    def settled(self, train: Table, labels: Sequence[str]) -> Self:
        """The same task with options that are given in words, as ``balanced``, worked out on the training rows.

        Raises:
            ConfigError: options that don't fit these labels.
        """
        return self

    def planned(self) -> Self:
        """The same task without options that need rows, and that change no memory."""
        return self

    def strata(self, row: Row) -> Hashable | None:
        """What splits and limits keep the shares of, such as a row's label; None: rows are drawn as they come."""
        return None

    def is_known(self, table: Table, index: int, labels: Collection[str]) -> bool:
        """Whether a row's label is one of those that are learned; always, where the task has none.

        Raises:
            DataError: it is missing, or not one label.
        """
        return True

    def identity(self, row: Row) -> Hashable:
        """What makes two rows the same input."""
        return tuple(str(row.get(role)) for role in sorted(self.inputs))

    @abstractmethod
    def labels(self, train: Table) -> list[str]:
        """Label names, in the order of the head's outputs; empty where the task has none."""

    @abstractmethod
    def check(self, table: Table, labels: Sequence[str], *, labelled: bool = True) -> None:
        """Look at every row.

        Raises:
            DataError: an empty text, an unknown label; names file, row and column.
        """

    @abstractmethod
    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> Built:
        """Load the base for this task.

        Args:
            base: where it lies.
            variant: number format of its weights.
            labels: label names.
            head_kind: of a saved artifact; None: as the options say.
        """

    @abstractmethod
    def encode(self, table: Table, tokenizer: Any, labels: Sequence[str], *, labelled: bool = True) -> list[Example]:
        """One example per row, cut to ``max_length``.

        Args:
            table: the rows.
            tokenizer: of the base.
            labels: label names.
            labelled: with what is to be learned; False: the rows wait for a prediction.

        Returns:
            ``input_ids``; ``length``, the number of tokens before anything was cut; ``labels``, where labelled.

        Raises:
            DataError: a row that can't be encoded; names file, row and column.
        """

    def prompt_ids(self, row: Mapping[str, Any], tokenizer: Any) -> list[int]:
        """Tokens that a row's answer is generated after, written as in training and never cut.

        Raises:
            ConfigError: the task generates nothing.
        """
        raise ConfigError(f"the task {self.name!r} generates no text")

    def answer_ends(self, tokenizer: Any) -> list[int]:
        """Tokens that end a generated answer."""
        return []

    def planned_example(self, length: int) -> Example:
        """An example of `length` tokens, without padding, for planning; stacked, its values are a batch.

        Raises:
            ConfigError: the task can't be planned for.
        """
        raise ConfigError(f"memory can't be planned for the task {self.name!r}: it has no planned_example")

    @abstractmethod
    def collate(self, examples: Sequence[Example], tokenizer: Any) -> Batch:
        """Pad examples to one batch of tensors ``[rows, tokens]``."""

    def why_padded(self, model: TunedModel) -> str | None:
        """Why `training_batch` pads rows on this model although it was to leave padding out; None: it does as told."""
        return None

    def packs(self, model: TunedModel) -> bool:
        """Whether `training_batch` leaves padding out on this model."""
        return False

    def training_batch(self, model: TunedModel, examples: Sequence[Example]) -> Batch:
        """Examples as one batch to train on."""
        return self.collate(examples, model.tokenizer)

    @abstractmethod
    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Run the model on a batch without its labels."""

    @abstractmethod
    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Training loss.

        Args:
            logits: what the model gave.
            labels: -100 where nothing is to be predicted.
            num_items_in_batch: divisor, where several batches make one step; None: the labels of this batch.
        """

    def training_loss(
        self,
        transformer: nn.Module,
        head: nn.Module | None,
        batch: Batch,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a batch without its labels; a task that can do so keeps less in memory than its logits."""
        return self.loss(self.logits(transformer, head, batch), labels, num_items_in_batch)

    def evaluation_pass(self, model: TunedModel, batch: Batch) -> Any:
        """One forward pass as `evaluate` runs it, on a batch with its labels."""
        return model.run_batch({name: tensor for name, tensor in batch.items() if name != "labels"})

    @property
    def generated_tokens(self) -> int:
        """Maximum number of tokens that are generated after a row; 0 where nothing is."""
        return 0

    def idle_options(self, tokenizer: Any, train: Table) -> list[str]:
        """Options that were given and have no effect on this base and these rows, each with the reason."""
        return []

    def load_metrics(self, labels: Sequence[str]) -> list[NamedMetric]:
        """The metrics of ``task.metrics``, loaded and tried.

        Raises:
            ConfigError: one that does not exist, or that does not take its options.
        """
        if self.options.metrics:
            raise ConfigError(f"the task {self.name!r} takes no further metrics")
        return []

    @abstractmethod
    def evaluate(
        self,
        model: TunedModel,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Metrics and predictions on labelled examples."""

    @abstractmethod
    def predict(
        self,
        model: TunedModel,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
        all_scores: bool = False,
    ) -> list[dict[str, Any]]:
        """Predictions for examples without labels.

        Args:
            model: the model.
            examples: as `encode` gives them.
            batch_size: examples at a time.
            progress: told how far it has come.
            all_scores: with ``scores``, the probability of every label, where the task has labels.
        """


tasks: Registry[Task[Any]] = Registry("pefttools.tasks", "task", base="pefttools.tasks.task:Task")
