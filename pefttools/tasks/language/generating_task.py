"""What tasks whose answers are texts that the model generates have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.texts import ExactMatch
from pefttools.tasks.language.generation import TextPrediction
from pefttools.tasks.language.language_task import LanguageConfig, LanguageTask
from pefttools.tasks.task import Example, Prediction, Progress

if TYPE_CHECKING:
    from pefttools.tasks.model import Model


class GeneratingConfig(LanguageConfig):
    """Options of every such task."""

    max_new_tokens: int = Field(32, ge=1, description="longest generated answer, in tokens")
    generate: bool = Field(True, description="generate answers at evaluation, e.g. for exact match")


ConfigT = TypeVar("ConfigT", bound=GeneratingConfig)


class GeneratingTask(LanguageTask[ConfigT]):
    """Texts are learned token by token, and generated at evaluation."""

    generates = True
    named_metrics = {"exact_match": ExactMatch, "bleu": BLEU, "chrf": ChrF, "rouge": ROUGE}  # noqa: RUF012

    @abstractmethod
    def answers(
        self, model: Model, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> list[str]:
        """One generated text per example."""

    @property
    def generated_tokens(self) -> int:
        return self.options.max_new_tokens if self.options.generate else 0

    def generated_metrics(self) -> list[Metric]:
        """Metrics of generated answers; the first chooses the best model."""
        return [ExactMatch()]

    def usual_metrics(self) -> list[Metric]:
        teacher_forced = super().usual_metrics()
        return [*self.generated_metrics(), *teacher_forced] if self.options.generate else teacher_forced

    def trial_answers(self, labels: Sequence[str]) -> Sequence[str]:
        if self.options.metrics and not self.options.generate:
            raise ConfigError("task.metrics compare generated answers", hint="Set task.generate=true.")
        return ["an answer", "another"]

    def predict(
        self,
        model: Model,
        examples: Sequence[Example],
        *,
        batch_size: int,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        labelled = len(examples) > 0 and "labels" in examples[0]
        if not labelled:
            found = self.answers(model, examples, batch_size=batch_size, progress=progress)
            return [TextPrediction(answer) for answer in found]
        steps = 2 if self.options.generate else 1
        forced = self.scored(model, examples, batch_size, _part(progress, 0, steps))
        if not self.options.generate:
            return [TextPrediction(None, *numbers) for numbers in forced]
        answers = self.answers(model, examples, batch_size=batch_size, progress=_part(progress, 1, steps))
        return [TextPrediction(answer, *numbers) for answer, numbers in zip(answers, forced, strict=True)]


def _part(progress: Progress | None, step: int, steps: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress((step * total + done) // steps, total)
