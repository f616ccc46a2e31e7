"""Metrics of answers to questions: predictions have a text as ``answer``; references are lists of right answers.

An answer is compared with the reference that it is most like. If a question has no answer, its references are one
empty text, and only an empty answer is right.

References:
    Rajpurkar, P., Zhang, J., Lopyrev, K. and Liang, P. (2016). SQuAD: 100,000+ questions for machine comprehension of
        text. EMNLP.
    Rajpurkar, P., Jia, R. and Liang, P. (2018). Know what you don't know: unanswerable questions for SQuAD. ACL.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.metric import Measure

if TYPE_CHECKING:
    from pefttools.metrics.metric import Numbers

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text as SQuAD's official script compares it: lower case, no punctuation, no articles, single spaces.

    Example:
        >>> normalized("The  Eiffel-Tower.")
        'eiffeltower'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def word_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall of an answer's words, each as often as it occurs."""
    given, true = normalized(answer).split(), normalized(reference).split()
    if not given or not true:
        return float(given == true)
    common = sum((Counter(given) & Counter(true)).values())
    return 2 * common / (len(given) + len(true))


def best_f1(answer: str, references: Sequence[str]) -> float:
    """`word_f1` with the reference that the answer is most like."""
    return max(word_f1(answer, one) for one in references)


def is_exact(answer: str, references: Sequence[str]) -> bool:
    """Whether an answer is one of the references, apart from what `normalized` removes."""
    return normalized(answer) in map(normalized, references)


def has_answer(references: Sequence[str]) -> bool:
    """Whether there is anything to be found."""
    return any(references)


class AnswerF1(MeanMetric):
    """Overlap of the words of answer and reference."""

    name, measure = "f1", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return best_f1(prediction.answer, reference)


class AnswerExactMatch(MeanMetric):
    """Share of answers that equal a reference apart from case, punctuation, articles and white space."""

    name, measure = "exact_match", Measure.share()

    def number(self, prediction: Any, reference: Any) -> float:
        return float(is_exact(prediction.answer, reference))


class AnswerableF1(AdditiveMetric):
    """`AnswerF1` over the questions that have an answer."""

    name, measure = "answerable_f1", Measure.share()

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        return (best_f1(prediction.answer, reference), 1.0) if has_answer(reference) else (0.0, 0.0)

    def value(self, total: Numbers) -> Numbers:
        return total[..., 0] / total[..., 1]


class UnanswerableAccuracy(AdditiveMetric):
    """Share of the questions without an answer that are given none."""

    name, measure = "unanswerable_accuracy", Measure.share()

    def contribution(self, prediction: Any, reference: Any) -> tuple[float, float]:
        return (0.0, 0.0) if has_answer(reference) else (float(is_exact(prediction.answer, reference)), 1.0)

    def value(self, total: Numbers) -> Numbers:
        return total[..., 0] / total[..., 1]
