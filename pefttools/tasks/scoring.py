"""How a task is measured: its metrics, what is chosen on validation, and what a model must beat."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pefttools.data.mapped import MappedItems
from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.choices import MetricChoice, own_metric, split
from pefttools.tasks.batches import by_size
from pefttools.tasks.evaluation import Evaluation, Prediction
from pefttools.tasks.parts import Parts, joined
from pefttools.tasks.size_unit import TOKENS, SizeUnit
from pefttools.tasks.types import Example, Progress

if TYPE_CHECKING:
    import torch

    from pefttools.tasks.labels.classes import ClassReport
    from pefttools.tasks.model import Model


class TaskConfig(BaseModel):
    """Options that every task has."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    metrics: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="further metrics: a name, or a name with options, e.g. {name: f1, average: macro}; others "
        "are loaded by the evaluate library, from a hub or from a script's path",
    )


class TextTaskConfig(TaskConfig):
    """Options of tasks that read texts."""

    max_length: int = Field(128, ge=8, description="longest input, in tokens; longer ones are truncated, and counted")


ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class ScoredTask(ABC, Generic[ConfigT]):
    """The part of a task that says how good its predictions are."""

    name: ClassVar[str]
    summary: ClassVar[str]
    config: ClassVar[type[TaskConfig]]
    #: metrics that a recipe may name, besides those of the evaluate library -> their classes
    named_metrics: ClassVar[Mapping[str, type[Metric]]] = {}
    #: part of an example whose length is its size; None if all examples have the same size
    sized_by: ClassVar[str | None] = "input_ids"
    #: what sizes are counted in
    size_unit: ClassVar[SizeUnit] = TOKENS
    #: metrics of which at least one must be better after training than before, if it is not known what a model that
    #: ignores its input gets; see `uninformed`
    learned_by: ClassVar[tuple[str, ...]] = ("loss",)
    #: whether there is one output per token, not one per row
    per_token: ClassVar[bool] = False

    def __init__(self, config: ConfigT) -> None:
        self.options: ConfigT = config
        #: what `calibrate` found on validation, such as thresholds; None if nothing
        self.calibration: dict[str, Any] | None = None
        #: metrics of every evaluation. The first chooses the best model and heads a comparison, unless a recipe
        #: names another
        self.metrics: tuple[Metric, ...] = (*self.usual_metrics(), *self._named())

    @abstractmethod
    def usual_metrics(self) -> Sequence[Metric]:
        """What every evaluation measures; the first chooses the best model unless a recipe names another."""

    def foreign_metrics(self) -> list[MetricChoice]:
        """Of ``task.metrics``, those that do not come with the task: only a trial shows what they give."""
        return [one for one in self.options.metrics if split(one)[0] not in self.named_metrics]

    def load_metrics(self, labels: Sequence[str]) -> list[Metric]:
        """The metrics of the evaluate library that ``task.metrics`` names, loaded and tried.

        Raises:
            ConfigError: one that does not exist, or that does not take its options or the task's answers; or one of the
                task's own lacks a package.
        """
        from pefttools.metrics.foreign import load_foreign

        for metric in self.metrics:
            metric.ready()
        foreign = list(map(split, self.foreign_metrics()))
        trial = self.trial_answers(labels)
        if foreign and not trial:
            raise ConfigError(
                f"task.metrics: the task {self.name!r} has no metric {foreign[0][0]!r}, and does not take those of the "
                "evaluate library",
                hint=f"Known: {', '.join(self.named_metrics) or 'none'}.",
            )
        return [one for name, options in foreign for one in load_foreign(name, options, trial, self.named_metrics)]

    def trial_answers(self, labels: Sequence[str]) -> Sequence[Any]:
        """Answers that further metrics are tried on; empty if the task takes none."""
        return ()

    def _named(self) -> list[Metric]:
        usual = {one.name for one in self.usual_metrics()}
        found = [own_metric(choice, self.named_metrics) for choice in self.options.metrics]
        return [one for one in found if one is not None and one.name not in usual]

    def uninformed(self, references: Sequence[Any], labels: Sequence[str]) -> list[Prediction] | None:
        """The best predictions that ignore the input, which a model must beat; None if they are not known."""
        return None

    def tells_apart(self, evaluation: Evaluation) -> bool:
        """Whether answers depend on the input more than by chance, even if they may be no better than `uninformed`."""
        return False

    def class_report(self, evaluation: Evaluation, labels: Sequence[str]) -> ClassReport | None:
        """Scores per class; None for a task without classes."""
        return None

    @property
    def longest_input(self) -> int | None:
        """Size that longer inputs are cut to; None if nothing is cut."""
        wanted = getattr(self.options, self.size_unit.option, None)
        return None if wanted is None else round(wanted * self.size_unit.parts)

    @property
    def other_limit(self) -> str:
        """What else a row may be cut by, for messages; empty if nothing."""
        return ""

    def size(self, example: Example) -> int:
        """How much of the model's input an example takes, e.g. its tokens: batches are made of similar sizes."""
        return len(example[self.sized_by]) if self.sized_by else 1

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        """`size` of each; for examples in files, without reading them whole."""
        if isinstance(examples, Parts):
            return list(examples.sizes)
        if isinstance(examples, MappedItems) and self.sized_by:
            return examples.lengths(self.sized_by)
        return [self.size(example) for example in examples]

    def tokens(self, examples: Sequence[Example]) -> int:
        """All that the model reads of some examples, without padding."""
        return sum(self.sizes(examples))

    @property
    def has_parts(self) -> bool:
        """Whether a row may be several model rows."""
        return type(self).parts is not ScoredTask.parts

    def parts(self, example: Example) -> Sequence[Example]:
        """What the model reads of a row, each on its own: windows of a long text, one part per choice.

        `collate` takes parts of any rows together; `decode` gets the logits of all of a row's parts. Usually a row is
        its own only part.
        """
        return (example,)

    def in_parts(self, examples: Sequence[Example]) -> Parts:
        """The parts of all of some rows."""
        return Parts(self, examples)

    def without_answers(self) -> Self:
        """The same task, which measures without generating answers, if that takes long."""
        return self

    def training_set(self, examples: Sequence[Example]) -> Sequence[Example]:
        """What is trained on, one loss each: the rows, unless a task says that it is their parts."""
        return examples

    @abstractmethod
    def reference(self, example: Example, labels: Sequence[str]) -> Any:
        """The right answer for a labelled example, as the metrics take it."""

    def decode(self, logits: torch.Tensor, example: Example, labels: Sequence[str]) -> Prediction:
        """What the logits of one row say.

        Args:
            logits: float32 on the CPU: ``[labels]``, or ``[tokens, labels]`` of the example's tokens. For a row with
                several parts they follow one another.
            example: the row's.
            labels: label names.
        """
        raise NotImplementedError(f"the task {self.name!r} implements neither decode nor predict")

    def predict(
        self,
        model: Model,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """One prediction per example; for examples with labels, with what metrics need besides the answer.

        Args:
            model: the model.
            examples: as `encode` gives them.
            batch_size: model rows at a time: parts, if an example has several.
            progress: called with the number of examples done and in total.
        """
        parts = self.in_parts(examples)
        found: list[Any] = [None] * len(examples)
        waiting: dict[int, dict[int, torch.Tensor]] = {}
        done = 0
        for chosen in by_size(parts.sizes, batch_size):
            batch = [parts[index] for index in chosen]
            logits = model.run(batch).float().cpu()
            for index, part, one in zip(chosen, batch, logits, strict=True):
                row = parts.row(index)
                given = waiting.setdefault(row, {})
                given[parts.place(index)] = one[: self.size(part)] if self.per_token else one
                if len(given) == parts.count(row):
                    whole = joined([waiting[row][place] for place in range(len(given))])
                    del waiting[row]
                    assert whole is not None
                    found[row] = self.decode(whole, examples[row], model.labels)
                    done += 1
            if progress is not None:
                progress(done, len(examples))
        return found

    def calibrate(self, predictions: Sequence[Prediction], references: Sequence[Any]) -> dict[str, Any] | None:
        """What is chosen on validation once a model is trained, such as thresholds; plain values, for JSON.

        It is kept in the artifact; `calibrated` gives a task that uses it. None if there is nothing to choose.
        """
        return None

    def calibrated(self, calibration: dict[str, Any] | None) -> Self:
        """The same task, which uses what `calibrate` chose."""
        task = copy.copy(self)
        task.calibration = calibration
        return task

    def joint_calibration(self, calibrations: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The calibration of a sum of adapters that were calibrated separately.

        Raises:
            ConfigError: they were calibrated differently, and the calibration of their sum is not known.
        """
        if any(one != calibrations[0] for one in calibrations):
            raise ConfigError(
                f"adapters of the task {self.name!r} that were calibrated on different rows can't be added up",
                hint="Train them on rows with the same numbers.",
            )
        return calibrations[0]

    def finish(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Predictions of a whole split as they are measured and shown, if answers depend on the calibration."""
        return predictions

    def evaluate(
        self,
        model: Model,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
        calibrate: bool = False,
    ) -> Evaluation:
        """Metrics and predictions on labelled examples.

        Args:
            model: the model.
            examples: as `encode` gives them.
            batch_size: examples at a time.
            progress: called with the number of examples done and in total.
            calibrate: whether these are the validation examples of a training run, to calibrate on.
        """
        raw = self.predict(model, examples, batch_size=batch_size, progress=progress)
        references = [self.reference(one, model.labels) for one in examples]
        task = self.calibrated(self.calibrate(raw, references)) if calibrate else self
        metrics = (*self.metrics, *self.load_metrics(model.labels))
        return replace(Evaluation.of(metrics, task.finish(raw), references), calibration=task.calibration)
