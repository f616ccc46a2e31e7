"""Knowledge distillation: a model learns the answers of one that is trained already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

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
    hidden: float = Field(
        0.0, ge=0, description="factor of the distance of hidden states from the teacher's; 0: they are not learned"
    )
    layers: Literal["uniform", "last"] | dict[int, int] = Field(
        "uniform",
        description="whose hidden states are learned: uniform: of every layer, from those of the teacher at equal "
        "distances; last: of the last one; or pairs of a layer and the teacher's that it learns from, counted from 1",
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

    @model_validator(mode="after")
    def _of_one(self) -> Self:
        if self.hidden and len(self.teacher) > 1:
            raise ValueError("hidden states of several teachers can't be averaged: give one teacher, or hidden: 0")
        if not self.layers:
            raise ValueError("layers is empty")
        if not self.hidden and "layers" in self.model_fields_set:
            raise ValueError("layers has no effect without hidden")
        return self


class Distillation(Objective[DistillationConfig]):
    """``(1 - alpha) L + alpha T^2 KL(teacher / T, student / T) + hidden * H``, with ``T`` the temperature.

    The teacher may have another base, another variant and another method; what it must have is the labels. It answers
    each training row once, in eval mode, before the training begins; its answers are kept in the cache. With the groups
    of labels that were learned before (`among`) and the model of before as the teacher, this is learning without
    forgetting.

    ``H`` is the mean over layers and rows of ``|s/|s| - t/|t||^2``, where ``s`` is the state of a row after a layer and
    ``t`` that of the teacher after the layer that it is mapped to. As in patient distillation a row has one state per
    layer, so that the teacher's fit into the cache; it is the mean over the row's tokens here, not the first token's,
    since bases differ in what they keep there. The last layers are among those that are mapped. Hidden states must be
    of one size: there is no projection that is trained along.

    References:
        Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network.
        https://arxiv.org/abs/1503.02531
        Sun, S., Cheng, Y., Gan, Z. and Liu, J. (2019). Patient knowledge distillation for BERT model compression.
        EMNLP. https://arxiv.org/abs/1908.09355
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
        self._states: Mapping[int, torch.Tensor] = {}
        self._layers: list[int] = []

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        if not task.has_labels or task.per_token:
            raise ConfigError(
                f"the objective {self.name!r} needs one answer per row, from labels that have names; the task "
                f"{task.name!r} gives none",
                hint="Of a task that writes texts, let the teacher predict the rows and train on its answers.",
            )
        if self.options.hidden and task.modality not in ("text", "image"):
            raise ConfigError(
                f"{self.name}.hidden needs a task that reads texts or images; {task.name!r} reads {task.modality}"
            )

    def teachers(self) -> Sequence[Path]:
        return self.options.teacher

    def teach(self, answers: Sequence[torch.Tensor]) -> None:
        self._answers = sum(answers[1:], answers[0]) / len(answers)

    def learns_states(self) -> bool:
        return self.options.hidden > 0

    def learned_layers(self, layers: int, of_teacher: int | None) -> Mapping[int, int]:
        chosen = self.options.layers
        last = layers if of_teacher is None else of_teacher
        if chosen == "last":
            return {layers: last}
        if chosen == "uniform":  # the last from the last; of equal numbers each from its own
            return {number: -(-number * last // layers) for number in range(1, layers + 1)}
        for number, other in chosen.items():
            for whose, layer, there in (("the model", number, layers), ("the teacher", other, of_teacher)):
                if layer < 1 or (there is not None and layer > there):
                    raise ConfigError(f"{self.name}.layers: {whose} has no layer {layer}; it has {there}, from 1")
        return chosen

    def teach_states(self, states: Sequence[Mapping[int, torch.Tensor]]) -> None:
        (self._states,) = states

    def read_layers(self) -> Sequence[int]:
        return self._layers

    def check_labels(self, labels: Sequence[str]) -> None:
        for label in (label for group in self.options.among for label in group):
            if label not in labels:
                near = UnknownNameError("label", label, labels)
                raise ConfigError(f"{self.name}.among: there is no label {label!r}", hint=near.hint)

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        self._groups = [[model.labels.index(label) for label in group] for group in self.options.among]
        if self.learns_states():
            from pefttools.objectives.layers import layer_modules

            count = len(layer_modules(model.transformer, f"the objective {self.name!r}"))
            self._layers = sorted(self.learned_layers(count, None))

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
        total = (1 - options.alpha) * plain.loss + options.alpha * options.temperature**2 * divergence
        return total + options.hidden * self._distance(step, plain.states) if self._layers else total

    def _distance(self, step: Step, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """How far hidden states are from the teacher's."""
        import torch
        from torch.nn.functional import normalize

        each = []
        for number in self._layers:
            mine = states[number]
            if step.rows is None:  # a step that is only measured
                known = torch.zeros_like(mine)
            else:
                known = self._states[number][step.rows.cpu()].to(mine.device)
            if known.shape != mine.shape:
                raise ConfigError(
                    f"{self.name}.layers: states of layer {number} have size {mine.shape[-1]}, those of the teacher's "
                    f"{known.shape[-1]}"
                )
            each.append((normalize(mine, dim=-1) - normalize(known, dim=-1)).square().sum(-1))
        return step.row_mean(torch.stack(each).mean(0))


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's answers from the teacher's, summed over the rows."""
    from torch.nn.functional import kl_div

    known, given = (one.float().log_softmax(-1) for one in (teacher, student))
    return kl_div(given, known, reduction="sum", log_target=True)
