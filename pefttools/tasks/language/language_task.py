"""What tasks that learn tokens with the base's own language head have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import Field

from pefttools.compute.moving import all_moved
from pefttools.data import Table
from pefttools.metrics import Metric
from pefttools.metrics.losses import Perplexity, TokenAccuracy, TokenLoss
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.task import IGNORE, LABELLED, Batch, Example, Progress, Task, TaskConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.tasks.model import Model


class LanguageConfig(TaskConfig):
    """Options of every such task."""

    loss_rows: int = Field(
        256, ge=0, description="maximum number of rows of logits in memory at a time in training; 0: all of them"
    )


ConfigT = TypeVar("ConfigT", bound=LanguageConfig)


class LanguageTask(Task[ConfigT]):
    """Texts are learned token by token; a batch's ``labels`` are where the logits are that predict them."""

    has_divergence = True
    has_outcomes = True
    why_not_attacked = "its rows are measured token by token, and by what the model writes"

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        #: for each model that was run: whether its loss can be computed in pieces
        self._in_pieces: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def labels(self, train: Table) -> list[str]:
        return []

    def log_probabilities(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from pefttools.tasks.language.language_head import outcomes

        return outcomes(logits, labels)

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        from pefttools.tasks.language.language_head import labelled_rows, mean

        # Rows of the vocabulary's size are large: take only those that count.
        rows, wanted = labelled_rows(logits, labels)
        return mean(cross_entropy(rows.float(), wanted, reduction="sum"), labels, num_items_in_batch)

    def training_loss(
        self,
        transformer: nn.Module,
        head: nn.Module | None,
        batch: Batch,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        from pefttools.tasks.language.language_head import chunked_cross_entropy, labelled_rows, mean

        where = batch.get(LABELLED)
        states, language_head = self._before_head(transformer, batch)
        if language_head is None:
            return self.loss(states, labels, num_items_in_batch)
        rows, wanted = labelled_rows(states, labels, where)
        total = chunked_cross_entropy(rows, wanted, language_head, self.options.loss_rows)
        return mean(total, labels, num_items_in_batch)

    def _before_head(self, transformer: nn.Module, batch: Batch) -> tuple[torch.Tensor, nn.Module | None]:
        """What the language head would read, and the head; logits and None if they can't be computed in pieces."""
        from pefttools.tasks.language.language_head import before_head

        if self.options.loss_rows:
            return before_head(transformer, lambda: self.logits(transformer, None, batch), self._in_pieces)
        return self.logits(transformer, None, batch), None

    def usual_metrics(self) -> list[Metric]:
        return [TokenAccuracy(), TokenLoss(), Perplexity()]

    def reference(self, example: Example, labels: Sequence[str]) -> str:
        return str(example["reference"])

    def scored(
        self, model: Model, examples: Sequence[Example], batch_size: int, progress: Progress | None = None
    ) -> list[tuple[float, int, int]]:
        """Per labelled example, see `evaluation_pass`."""
        return in_order_of_size(
            examples, self.sizes(examples), batch_size, lambda batch: self._scored(model, batch), progress
        )

    def evaluation_pass(self, model: Model, batch: Batch) -> Any:
        """Per row: summed loss, number of right tokens and of all tokens to be predicted, given the true ones before.

        Args:
            model: the model.
            batch: with labels.
        """
        import torch

        from pefttools.tasks.language.language_head import labelled_rows, places, scores

        given = all_moved(batch, model.device)
        labels = given.pop("labels")
        with model.inference_mode(), model.precision():
            states, head = self._before_head(model.transformer, given)
            where = given.get(LABELLED, places(labels))
            rows, wanted = labelled_rows(states, labels, where)
            size = self.options.loss_rows or max(len(rows), 1)
            parts = [
                scores(part if head is None else head(part), truth)
                for part, truth in zip(torch.split(rows, size), torch.split(wanted, size), strict=True)
            ]
        of_row = (labels != IGNORE).sum(1)
        found = torch.zeros(2, len(labels), dtype=torch.float64, device=labels.device)
        owner = where // labels.shape[1]
        for index, values in enumerate(zip(*parts, strict=True)):
            found[index].index_add_(0, owner, torch.cat(values).double())
        return found[0], found[1], of_row

    def _scored(self, model: Model, batch: list[Example]) -> list[tuple[float, int, int]]:
        losses, rights, counts = self.evaluation_pass(model, self.collate(batch, model.processor))
        return list(zip(losses.tolist(), rights.long().tolist(), counts.tolist(), strict=True))
