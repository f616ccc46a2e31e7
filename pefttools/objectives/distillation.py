"""Knowledge distillation: a model learns the answers of one that is trained already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pefttools.errors import ConfigError, UnknownNameError
from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task
    from pefttools.tasks.model import Model


class DistillationConfig(ObjectiveConfig):
    """Options of distillation."""

    teacher: list[Path] = Field(
        min_length=1, description="artifact of the teacher, or several, whose logits are averaged"
    )
    temperature: float = Field(2.0, gt=0, description="what logits are divided by, so that unlikely answers count more")
    alpha: float = Field(
        0.5, gt=0, le=1, description="share of the teacher's answers in the loss; the labels have the rest"
    )
    among: list[list[str]] = Field(
        default_factory=list,
        description="groups of labels: how the teacher tells those of a group apart is learned, group by group; empty: "
        "all labels are one group",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value


class Distillation(Objective[DistillationConfig]):
    """``(1 - alpha) L + alpha T^2 KL(teacher / T, student / T)``, with ``T`` the temperature.

    The teacher may have another base, another variant and another method; what it must have is the labels. It answers
    each training row once, in eval mode, before the training begins; its answers are kept in the cache. With the groups
    of labels that were learned before (`among`) and the model of before as the teacher, this is learning without
    forgetting.

    References:
        Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network.
        https://arxiv.org/abs/1503.02531
        Li, Z. and Hoiem, D. (2016). Learning without forgetting. ECCV. https://arxiv.org/abs/1606.09282
    """

    name = "distillation"
    summary = "a teacher's answers are learned beside the labels, or instead of them"
    paper = "https://arxiv.org/abs/1503.02531"
    config = DistillationConfig
    compares = True
    keeps_graph = True
    replaces_loss = True

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__(config)
        self._answers: torch.Tensor | None = None
        self._groups: list[list[int]] = []

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        if not task.has_labels or task.per_token:
            raise ConfigError(
                f"the objective {self.name!r} needs one answer per row, from labels that have names; the task "
                f"{task.name!r} gives none",
                hint="Of a task that writes texts, let the teacher predict the rows and train on its answers.",
            )

    def teachers(self) -> Sequence[Path]:
        return self.options.teacher

    def teach(self, answers: Sequence[torch.Tensor]) -> None:
        self._answers = sum(answers[1:], answers[0]) / len(answers)

    def check_labels(self, labels: Sequence[str]) -> None:
        for label in (label for group in self.options.among for label in group):
            if label not in labels:
                near = UnknownNameError("label", label, labels)
                raise ConfigError(f"{self.name}.among: there is no label {label!r}", hint=near.hint)

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        self._groups = [[model.labels.index(label) for label in group] for group in self.options.among]

    def term(self, step: Step) -> torch.Tensor:
        import torch

        plain, options = step.plain(), self.options
        assert plain.logits is not None
        if step.rows is None:  # a step that is only measured
            answers = torch.zeros_like(plain.logits)
        else:
            assert self._answers is not None, "the teacher was not asked"
            answers = self._answers[step.rows.cpu()].to(plain.logits.device)
        teacher, student = answers / options.temperature, plain.logits / options.temperature
        if self._groups:
            each = [_divergence(teacher[:, group], student[:, group]) for group in self._groups]
            divergence = torch.stack(each).sum() / step.task.items(step.labels, step.num_items)
        else:
            divergence = step.divergence(teacher, student)
        return (1 - options.alpha) * plain.loss + options.alpha * options.temperature**2 * divergence


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's answers from the teacher's, summed over the rows."""
    from torch.nn.functional import kl_div

    known, given = (one.float().log_softmax(-1) for one in (teacher, student))
    return kl_div(given, known, reduction="sum", log_target=True)
