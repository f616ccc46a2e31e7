"""A trained model whose input is moved against each row's own label before it answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from pefttools.compute.moving import all_moved
from pefttools.errors import ConfigError
from pefttools.methods import Capabilities
from pefttools.objectives import Objective
from pefttools.objectives.inputs import changed_input
from pefttools.objectives.step import Step
from pefttools.tasks import Task
from pefttools.tasks.types import Batch, Example
from pefttools.tuned import TunedModel


class AttackedModel:
    """A model as `Task.evaluate` takes it, which reads labelled rows under an attack.

    An attack takes the gradient of each row's loss with regard to what the model reads of it, with all weights frozen
    and without dropout. Norms are taken per row, so the other rows of a batch and padding do not matter.

    Args:
        model: the trained model.
        attack: an objective that attacks.
    """

    #: as a step of training takes them: its batch is the whole step
    passes = 1
    step_rows: int | None = None

    def __init__(self, model: TunedModel, attack: Objective[Any]) -> None:
        self._model = model
        self._attack = attack
        self.task: Task[Any] = model.task.to_be_attacked(model.labels)
        self.head = model.head
        self.autocast = model.autocast

    @property
    def transformer(self) -> nn.Module:
        """The wrapped transformers model."""
        return self._model.transformer

    @property
    def processor(self) -> Any:
        """What encodes rows and pads batches."""
        return self._model.processor

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits."""
        return self._model.labels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.device

    @property
    def quantized(self) -> bool:
        """Whether the base's weights are stored in a few bits."""
        return self._model.quantized

    @property
    def capabilities(self) -> Capabilities:
        """What its method can do."""
        return self._model.capabilities

    def trained(self) -> dict[str, torch.Tensor]:
        """No parameters: all are frozen."""
        return {}

    def of_head(self) -> set[str]:
        """None of them."""
        return set()

    def inference_mode(self) -> AbstractContextManager[None]:
        """In eval mode and without gradients."""
        return self._model.inference_mode()

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision, if the model uses it."""
        return self._model.precision()

    def task_loss(
        self, batch: Batch, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The task's own loss of a batch without its labels."""
        return self.task.training_loss(self.transformer, self.head, batch, targets, num_items_in_batch)

    def run(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits of labelled examples under the attack."""
        return self.run_batch(self.task.collate(examples, self.processor))

    def run_batch(self, batch: Batch) -> torch.Tensor:
        """Logits of a batch with its labels under the attack.

        Raises:
            ConfigError: it has no labels.
        """
        given = all_moved(batch, self.device)
        targets = given.pop("labels", None)
        if targets is None:
            raise ConfigError("an attack moves a row against its own label, and these rows have none")
        with self.inference_mode(), _frozen(self._model), self.precision():
            with torch.enable_grad():
                change = self._attack.attack(Step(self, given, targets, None, [self._attack]))
            with changed_input(self.transformer, given, change) as changed:
                return self.task.logits(self.transformer, self.head, changed)

    def generate(self, inputs: Batch, *, ends: Collection[int] = (), **options: Any) -> torch.Tensor:
        """Nothing is generated under an attack.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the task {self.task.name!r} generates texts, which can't be done under an attack")


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter takes a gradient, so that a graph keeps nothing for them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
