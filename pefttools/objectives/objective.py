"""The contract of an objective. Importing one must not import torch, so that listing objectives stays fast."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pefttools.errors import ConfigError
from pefttools.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method, Pass
    from pefttools.objectives.inputs import Change
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task
    from pefttools.tasks.evaluation import Prediction
    from pefttools.tasks.model import Model
    from pefttools.tasks.types import Batch


class ObjectiveConfig(BaseModel):
    """Options of an objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightedConfig(ObjectiveConfig):
    """Options of one whose term stands beside the task's loss."""

    weight: float = Field(1.0, gt=0, description="factor of the term")


ConfigT = TypeVar("ConfigT", bound=ObjectiveConfig)


class Objective(ABC, Generic[ConfigT]):
    """A term of what a training step minimises, with its options.

    Args:
        config: validated options.

    Attributes:
        options: the same.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    #: where it was published
    paper: ClassVar[str] = ""
    config: ClassVar[type[ObjectiveConfig]]
    #: whether it runs passes of its own, in which what the model reads is changed: embeddings of tokens, pixels, or
    #: features of sound
    perturbs: ClassVar[bool] = False
    #: whether it says what change of the input raises the loss; see `attack`
    attacks: ClassVar[bool] = False
    #: whether it asks for the gradient of the plain loss with regard to what the model reads; see `Step.slope`
    reads_slope: ClassVar[bool] = False
    #: whether it says what the model reads in every pass; see `change`
    changes_input: ClassVar[bool] = False
    #: whether it says what the trained weights are in the passes of a step; see `weights`
    changes_weights: ClassVar[bool] = False
    #: whether its term is one of the trained weights as they are, for which no pass is run
    of_weights: ClassVar[bool] = False
    #: whether it compares the answers of two forward passes; see `Task.divergence`
    compares: ClassVar[bool] = False
    #: whether it reads what the head's linear layer reads of each row; see `Outcome.features`
    reads_features: ClassVar[bool] = False
    #: whether gradients flow through the plain pass's logits from this term too. Where no objective of a training asks
    #: for that, the gradients of a pass are taken at once, and its activations are freed before the next pass
    keeps_graph: ClassVar[bool] = False
    #: whether its term stands in the place of the task's loss instead of beside it
    replaces_loss: ClassVar[bool] = False
    #: whether it says what the loss of a pass is, in the task's place; see `loss`
    shapes_loss: ClassVar[bool] = False
    #: whether it compares how likely the better and the worse answer of a row are; see `Step.rejected`
    ranks_answers: ClassVar[bool] = False
    #: whether it asks for the likelihoods of those answers under the model that training starts from; see `refer`
    reads_start: ClassVar[bool] = False
    #: whether rows of one label are to come in twos, so that a batch has pairs of them
    pairs_rows: ClassVar[bool] = False
    #: whether it says what the head's weights are once all else is trained; see `fit_head`
    fits_head: ClassVar[bool] = False

    def __init__(self, config: ConfigT) -> None:
        self.options: ConfigT = config

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        """Refuse a combination that can't work, before anything is loaded.

        Raises:
            ConfigError: this objective does not go with the method, the variant or the task.
        """
        if method.capabilities.trains == "nothing":
            raise ConfigError(f"the objective {self.name!r} has no effect: the method {method.name!r} trains nothing")
        self.check_task(task)

    def check_task(self, task: Task[Any]) -> None:
        """Refuse a task that it can't be used for, whatever the method and the variant.

        Raises:
            ConfigError: names both.
        """
        if task.loss_over_batch and (self.perturbs or self.changes_input or self.compares or self.replaces_loss):
            raise ConfigError(
                f"the objective {self.name!r} can't be used for the task {task.name!r}, whose loss compares all rows "
                "of a batch"
            )
        if self.compares and not task.has_divergence:
            raise ConfigError(
                f"the objective {self.name!r} compares the answers of two passes, which the task {task.name!r} "
                "does not support"
            )
        if self.ranks_answers and not task.has_preferences:
            raise ConfigError(
                f"the objective {self.name!r} needs a better and a worse answer per row, which the task {task.name!r} "
                "does not have",
                hint=f"Tasks that do: {', '.join(_with_preferences())}.",
            )
        if self.shapes_loss and not task.has_outcomes:
            raise ConfigError(
                f"the objective {self.name!r} weighs the probabilities of outcomes, and the answers of the task "
                f"{task.name!r} are none"
            )
        if self.shapes_loss and (lost := task.loss_options()):
            raise ConfigError(
                f"the objective {self.name!r} replaces the loss that {' and '.join(f'task.{one}' for one in lost)} "
                "changes",
                hint="Leave one of them out.",
            )

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse options that do not fit the labels, before anything is loaded.

        Args:
            labels: that are learned; empty if the task has none.

        Raises:
            ConfigError: an option names a label that there is none of.
        """
        return

    def teachers(self) -> Sequence[Path]:
        """Artifacts whose answers to the training rows it needs."""
        return ()

    def teach(self, answers: Sequence[torch.Tensor]) -> None:
        """Called before `begin`, where there are teachers.

        Args:
            answers: of each teacher, its logits ``[rows, labels]`` for the training rows; see `Step.rows`.
        """
        return

    def learns_states(self) -> bool:
        """Whether it learns hidden states of its teachers beside their answers; see `learned_layers`."""
        return False

    def learned_layers(self, layers: int, of_teacher: int | None) -> Mapping[int, int]:
        """Layers of the model whose states are learned from its teacher's, and from which of the teacher's; from 1.

        Args:
            layers: number of the model's layers.
            of_teacher: number of the teacher's; None in a step that is only measured, where there is no teacher.

        Raises:
            ConfigError: an option names a layer that there is none of.
        """
        return {}

    def teach_states(self, states: Sequence[Mapping[int, torch.Tensor]]) -> None:
        """Called after `teach`, where it learns hidden states.

        Args:
            states: of each teacher, by layer of the model that is to learn them, what the teacher's layer gives for
                each training row: the mean over the tokens, ``[rows, hidden]``.
        """
        return

    def refer(self, likelihoods: torch.Tensor) -> None:
        """Called before `begin`; with `reads_start`.

        Args:
            likelihoods: logarithms of the probabilities of the better and the worse answer of each training row,
                ``[rows, 2]``, under the base without an adapter, or under the artifact that training starts from; see
                `Step.rows`.
        """
        return

    def unlabelled(self) -> Path | None:
        """A file of rows without labels that it learns from too; None if it needs none."""
        return None

    def receive(self, batch_of: Callable[[int, int], Batch]) -> None:
        """Called before `begin`, where there are rows without labels.

        Args:
            batch_of: gives, for the number of a batch and its size, inputs without labels.
        """
        return

    def said_of_unlabelled(self, predictions: Sequence[Prediction], references: Sequence[Any] | None) -> str | None:
        """What to report at the end about the rows without labels; None: nothing.

        Args:
            predictions: of the trained model for them.
            references: the right answers, if the file has them after all.
        """
        return None

    def old_rows(self) -> tuple[Path, int] | None:
        """A file of rows that were learned before and are not to be forgotten, and the maximum number to read."""
        return None

    def remember(self, trained: dict[str, torch.Tensor], passes: Iterable[Pass]) -> None:
        """Called before `begin`, in eval mode, where there are old rows.

        Args:
            trained: the trained parameters, by name, with the weights that training begins with.
            passes: one for each old row.
        """
        return

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        """Called once, when the model stands as its training begins.

        Args:
            model: that is trained.
            trained: its trained parameters, by name.
        """
        return

    def read_layers(self) -> Sequence[int]:
        """Layers of the model, from 1, whose states it reads in each pass, once it has begun; see `Outcome.states`."""
        return ()

    def term(self, step: Step) -> torch.Tensor | None:
        """What is added to the loss of a training step, or replaces it: a scalar; None: nothing.

        Args:
            step: gives forward passes over the step's batch.
        """
        return None

    def attack(self, step: Step) -> Change:
        """The change of the input that raises the loss of a batch; with `attacks`.

        A trained model is measured under it too; then no parameter takes a gradient.

        Args:
            step: gives forward passes over the batch.
        """
        raise NotImplementedError(f"the objective {self.name!r} says that it attacks, and has no attack()")

    def change(self, read: torch.Tensor, step: Step) -> torch.Tensor:
        """What the model is to read in every pass of a training step, instead of what it would; with `changes_input`.

        Args:
            read: embeddings of tokens ``[rows, tokens, hidden]``; pixels or features ``[rows, ...]``.
            step: the step.
        """
        return read

    def weights(self, step: Step) -> AbstractContextManager[Callable[[str, torch.Tensor], None]]:
        """The trained weights as all passes of a step, and their backward passes, are to read them; `changes_weights`.

        Args:
            step: the step; its `trained` are changed in place, and put back at the end of the block.

        Returns:
            A context that gives the chain rule: what is called with the name of a weight and the gradient with regard
            to what was read, and makes it in place that with regard to the weight.
        """
        raise NotImplementedError(f"the objective {self.name!r} says that it changes weights, and has no weights()")

    def loss(self, logits: torch.Tensor, step: Step) -> torch.Tensor:
        """The loss of a pass, where this objective says what it is: a scalar, a mean as `Task.loss` gives it.

        Args:
            logits: of the pass, see `Task.logits`.
            step: the step.
        """
        raise NotImplementedError(f"the objective {self.name!r} says that it shapes the loss, and has no loss()")

    def fit_head(self, layer: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Set the weights of the head's linear layer; with `fits_head`, before each evaluation and at the end.

        Args:
            layer: whose outputs are the logits.
            features: what it reads of each training row, ``[rows, hidden]`` in float32.
            labels: numbers of the rows' labels, ``[rows]``.
        """
        raise NotImplementedError(f"the objective {self.name!r} says that it fits the head, and has no fit_head()")

    def state(self) -> dict[str, torch.Tensor]:
        """What a training that goes on needs, for checkpoints."""
        return {}

    def restore_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave, on the model's device."""
        return


objectives: Registry[Objective[Any]] = Registry(
    "pefttools.objectives", "objective", base="pefttools.objectives:Objective"
)


def check_together(terms: Sequence[Objective[Any]]) -> None:
    """Refuse objectives of which two want the same place.

    Raises:
        ConfigError: names them.
    """
    names = [one.name for one in terms]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"the objective {double!r} is given twice")
    for place, names in (
        ("replace the task's loss", [one.name for one in terms if one.replaces_loss]),
        ("say what the loss of a pass is", [one.name for one in terms if one.shapes_loss]),
        ("change the trained weights", [one.name for one in terms if one.changes_weights]),
        ("fit the head", [one.name for one in terms if one.fits_head]),
        ("rank answers", [one.name for one in terms if one.ranks_answers]),
    ):
        if len(names) > 1:
            raise ConfigError(f"the objectives {' and '.join(map(repr, names))} can't be used together: both {place}")
    ranks = [one.name for one in terms if one.ranks_answers]
    others = [one.name for one in terms if one.perturbs or one.compares or one.shapes_loss or one.reads_features]
    if ranks and others:
        raise ConfigError(
            f"the objectives {ranks[0]!r} and {others[0]!r} can't be used together: {others[0]!r} is about one answer "
            "per row"
        )


def _with_preferences() -> list[str]:
    """Names of the tasks whose rows have a better and a worse answer."""
    from pefttools.tasks.task import tasks

    return [name for name in tasks if tasks.get(name).has_preferences]
