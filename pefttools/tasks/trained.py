"""How a task is trained: its batches, what a model gives for them, and the loss on that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pefttools.errors import ConfigError
from pefttools.tasks.scoring import ConfigT, ScoredTask
from pefttools.tasks.types import IGNORE, LABELLED, Batch, Example

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks.model import Model


class TrainedTask(ScoredTask[ConfigT]):
    """The part of a task that makes batches, runs a model on them and says what is to be learned."""

    #: whether a row's loss depends on the other rows of its batch. Such a batch is never split: its loss is that of the
    #: whole, the mean over its rows whatever `num_items_in_batch` says; see `passes`, `kept_together`, `kept_apart`
    loss_over_batch: ClassVar[bool] = False
    #: whether `divergence` compares the answers of two passes
    has_divergence: ClassVar[bool] = False
    #: whether each answer is one of several outcomes, of which labels number the right one; see `log_probabilities`
    has_outcomes: ClassVar[bool] = False
    #: whether a row has a better and a worse answer; see `rejected`, `log_likelihoods`
    has_preferences: ClassVar[bool] = False

    #: why what the model reads can't be moved against each row's own label when the task is measured; None if it can
    why_not_attacked: str | None = None

    def to_be_attacked(self, labels: Sequence[str]) -> Self:
        """The same task with a loss that needs no training rows: what they decide changes no direction of a gradient.

        Args:
            labels: label names.
        """
        return self

    @abstractmethod
    def collate(self, examples: Sequence[Example], processor: Any) -> Batch:
        """Pad examples to one batch of tensors ``[rows, tokens]``."""

    def why_padded(self, model: Model) -> str | None:
        """Why `training_batch` pads rows on this model although it was to leave padding out; None if it does not."""
        return None

    def packs(self, model: Model) -> bool:
        """Whether `training_batch` leaves padding out on this model."""
        return False

    def training_batch(self, model: Model, examples: Sequence[Example]) -> Batch:
        """Examples as one batch to train on."""
        return self.collate(examples, model.processor)

    def passes(self, batch: Batch) -> list[Batch]:
        """The forward passes whose logits, one after the other, are those of a batch without its labels.

        If the loss depends on the whole batch, each may be run in parts of its rows.
        """
        return [batch]

    def kept_together(self, example: Example) -> Hashable | None:
        """Training examples with the same key are put into batches in twos; None if it does not matter."""
        return None

    def kept_apart(self, example: Example) -> Hashable | None:
        """Training examples with the same key are kept out of one batch, if possible; None if they need not be."""
        return None

    def model_inputs(self, batch: Batch) -> Batch:
        """What the model itself reads of a batch without its labels."""
        return {name: tensor for name, tensor in batch.items() if name != LABELLED}

    @abstractmethod
    def logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Run the model on a batch without its labels."""

    def training_logits(self, transformer: nn.Module, head: nn.Module | None, batch: Batch) -> torch.Tensor:
        """Logits as the loss reads them, without what a row can't answer."""
        return self.logits(transformer, head, batch)

    @abstractmethod
    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Training loss.

        Args:
            logits: what the model gave.
            labels: the true labels; -100 where nothing is to be predicted.
            num_items_in_batch: divisor, if several batches make one step; None for the number of labels of this batch.
        """

    def training_loss(
        self,
        transformer: nn.Module,
        head: nn.Module | None,
        batch: Batch,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a batch without its labels; a task that is able to keeps less in memory than its logits."""
        return self.loss(self.training_logits(transformer, head, batch), labels, num_items_in_batch)

    def loss_options(self) -> list[str]:
        """Options that were given and change the loss, which nothing else may replace then."""
        return []

    def items(self, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor | int:
        """What a sum over the labels is divided by to be a mean as `loss` is."""
        return (labels != IGNORE).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the probabilities of each outcome, ``[items, outcomes]``, and which is right, ``[items]``.

        Args:
            logits: what the model gave.
            labels: what has none is left out.
        """
        raise NotImplementedError(f"the task {self.name!r} says that its answers are outcomes, and names none")

    def rejected(self, batch: Batch) -> tuple[Batch, torch.Tensor]:
        """The worse answers of a batch, as a batch of as many rows, and their labels.

        Args:
            batch: without labels; by itself it is one of the better answers.
        """
        raise NotImplementedError(f"the task {self.name!r} says that its rows have a better and a worse answer")

    def log_likelihoods(
        self, transformer: nn.Module, head: nn.Module | None, batch: Batch, labels: torch.Tensor
    ) -> torch.Tensor:
        """The logarithm of the probability of each row's whole answer, ``[rows]``.

        Args:
            transformer: the model.
            head: its head, if that is ours.
            batch: without labels.
            labels: the tokens of the answers; -100 elsewhere.
        """
        raise NotImplementedError(f"the task {self.name!r} says that its rows have a better and a worse answer")

    def divergence(
        self,
        logits: torch.Tensor,
        others: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """How far an answer is from another: the Kullback-Leibler divergence of `others` from `logits`.

        Args:
            logits: of one pass.
            others: of another one over the same batch.
            labels: -100 where nothing is to be predicted; of the others only the number matters.
            num_items_in_batch: see `loss`.

        Returns:
            A scalar, a mean as `loss` is; 0 where both are the same.
        """
        from torch.nn.functional import kl_div

        # What can't be answered has the probability 0, whose logarithm would be no number to go on with.
        one, other = (self.log_probabilities(each, labels)[0].clamp(min=-1e4) for each in (logits, others))
        return kl_div(other, one, reduction="sum", log_target=True) / self.items(labels, num_items_in_batch)

    def evaluation_pass(self, model: Model, batch: Batch) -> Any:
        """One forward pass as `evaluate` runs it, on a batch with its labels."""
        return model.run_batch({name: tensor for name, tensor in batch.items() if name != "labels"})

    def padded_size(self, size: int, processor: Any) -> int:
        """The size that a row of a size is padded to, if a base takes rows of one size."""
        return size

    def planned_example(self, length: int, labels: Sequence[str] = ("",)) -> Example:
        """An example of `length` tokens, without padding, for planning; stacked, its values are a batch.

        Args:
            length: number of tokens.
            labels: label names of the planned model.

        Raises:
            ConfigError: the task can't be planned for.
        """
        raise ConfigError(f"memory can't be planned for the task {self.name!r}: it has no planned_example")

    def planned_batch(self, model: Model, sizes: Sequence[int]) -> Batch:
        """A batch to train on, for planning: rows that are padded to the largest size.

        Args:
            model: the planned model.
            sizes: of the rows, see `size`.

        Raises:
            ConfigError: the task can't be planned for.
        """
        import torch

        one = self.planned_example(max(sizes), model.labels)
        return {name: torch.tensor([value] * len(sizes)) for name, value in one.items()}

    def planned_parts(self, model: Model, sizes: Sequence[int]) -> Batch:
        """A batch as `predict` runs it, for planning: as `planned_batch`, if a row is its own only part."""
        return self.planned_batch(model, sizes)
