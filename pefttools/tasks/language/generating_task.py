"""What tasks whose answers are texts that the model generates have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import Field, field_validator

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.texts import ExactMatch
from pefttools.tasks.language.allowed import AllowedAnswers
from pefttools.tasks.language.generation import TextPrediction, answer_text
from pefttools.tasks.language.language_task import LanguageConfig, LanguageTask
from pefttools.tasks.task import Example, Prediction, Progress

if TYPE_CHECKING:
    from pefttools.tasks.model import Model


class GeneratingConfig(LanguageConfig):
    """Options of every such task."""

    max_new_tokens: int = Field(32, ge=1, description="longest generated answer, in tokens")
    generate: bool = Field(True, description="generate answers at evaluation, e.g. for exact match")
    answers: list[str] = Field(
        default_factory=list, description="the only answers that may be generated; if empty, any text may"
    )

    @field_validator("answers")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value) or any(answer != answer.strip() or not answer for answer in value):
            raise ValueError("answers must be distinct, not empty, and without spaces at either end")
        return value


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

    def tokenizer_of(self, processor: Any) -> Any:
        """The tokenizer that writes the answers."""
        return processor

    def written_answers(self, answer: str, processor: Any) -> list[list[int]]:
        """The tokens of an answer in each way that rows may have it, none of them cut.

        Raises:
            ConfigError: the task does not define them, so that it can have no list of answers.
        """
        raise ConfigError(f"the task {self.name!r} can't be kept to a list of answers", hint="Leave task.answers out.")

    def only_answers(self, processor: Any, ends: Collection[int]) -> AllowedAnswers | None:
        if not self.options.answers:
            return None
        tokens = {answer: self.written_answers(answer, processor) for answer in self.options.answers}
        for answer, ways in tokens.items():
            read = answer_text(ways[0], self.tokenizer_of(processor), ends).strip()
            if read != answer:
                raise ConfigError(
                    f"task.answers: the base's tokenizer gives {read!r} back for {answer!r}, which can't be written",
                    hint="Write it in that way, in the rows too.",
                )
        return AllowedAnswers(tokens, ends, self.options.max_new_tokens)

    def check_with(self, processor: Any) -> None:
        ends = self.answer_ends(processor)
        if ends:  # the base may have others, which only the model knows
            self.only_answers(processor, ends)

    def check_allowed(self, table: Table, index: int, role: str, answer: Any) -> None:
        """Refuse a true answer that could not be generated.

        Raises:
            DataError: it is none of the allowed ones.
        """
        allowed = self.options.answers
        if allowed and str(answer).strip() not in allowed:
            raise table.error(
                index, role, f"{str(answer).strip()!r} is not one of the answers in task.answers",
                hint="Add it there, or correct the row.",
            )  # fmt: skip

    def without_answers(self) -> Self:
        return type(self)(self.options.model_copy(update={"generate": False, "metrics": []}))

    def new_tokens(self, usual: int) -> int:
        return self.options.max_new_tokens if self.options.answers else usual

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
        forced = self.scored(model, examples, batch_size, part_of(progress, 0, steps))
        if not self.options.generate:
            return [TextPrediction(None, *numbers) for numbers in forced]
        answers = self.answers(model, examples, batch_size=batch_size, progress=part_of(progress, 1, steps))
        return [TextPrediction(answer, *numbers) for answer, numbers in zip(answers, forced, strict=True)]


def part_of(progress: Progress | None, step: int, steps: int) -> Progress | None:
    """Progress of one of several passes over the same rows."""
    if progress is None:
        return None
    return lambda done, total: progress((step * total + done) // steps, total)
