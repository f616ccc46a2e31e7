"""Self-training: a model's own confident answers to rows without labels are learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.objectives.objective import Objective, WeightedConfig
from pefttools.objectives.unlabelled import ReadsUnlabelled

if TYPE_CHECKING:
    import torch

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task
    from pefttools.tasks.evaluation import Prediction


class SelfTrainingConfig(WeightedConfig):
    """Options of self-training."""

    unlabelled: Path = Field(
        description="file of rows without labels; each pass reads as many of them as of the others. If it has labels, "
        "they are not read, but the log says how many confident answers were wrong"
    )
    threshold: float = Field(0.9, gt=0, lt=1, description="probability from which an answer is taken for a label")


class SelfTraining(ReadsUnlabelled, Objective[SelfTrainingConfig]):
    """``L + weight * mean_u [p(u) >= threshold] CE(argmax p(u), p'(u))`` over rows ``u`` without labels.

    ``p`` is the answer of one pass, a constant, and ``p'`` that of another with different dropout, so that answers are
    to be consistent too. FixMatch changes the input more for ``p'`` than for ``p``; of texts, dropout alone differs.

    References:
        Lee, D.-H. (2013). Pseudo-label: the simple and efficient semi-supervised learning method for deep neural
        networks. ICML workshop.
        Sohn, K. et al. (2020). FixMatch: simplifying semi-supervised learning with consistency and confidence. NeurIPS.
        https://arxiv.org/abs/2001.07685
    """

    name = "self-training"
    summary = "rows without labels: confident answers are learned as labels, under another dropout"
    paper = "https://arxiv.org/abs/2001.07685"
    config = SelfTrainingConfig
    compares = True

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        if not task.one_label:
            raise ConfigError(f"the objective {self.name!r} needs a task with one label per row, not {task.name!r}")

    def unlabelled(self) -> Path | None:
        return self.options.unlabelled

    def term(self, step: Step) -> torch.Tensor:
        other = self.beside(step)
        known, _ = step.task.log_probabilities(other.answer(), other.labels)
        best, labels = known.max(-1)
        sure = best.exp() >= self.options.threshold
        logits = other.run(same_dropout=False).logits
        assert logits is not None
        given, _ = step.task.log_probabilities(logits, other.labels)
        lost = -given.gather(-1, labels[:, None])[:, 0] * sure
        return self.options.weight * lost.sum() / (len(labels) * step.model.passes)

    def said_of_unlabelled(self, predictions: Sequence[Prediction], references: Sequence[Any] | None) -> str:
        sure = [
            (one, None if references is None else references[number])
            for number, one in enumerate(predictions)
            if max(getattr(one, "probabilities", (0.0,))) >= self.options.threshold
        ]
        found = f"{self.name}: {len(sure):,} of {len(predictions):,} rows without labels are answered with confidence"
        if references is None:
            return found
        wrong = sum(one.answer != truth for one, truth in sure)
        return f"{found}, {wrong:,} of them wrongly by the labels of the file"
