"""How often the 95 % interval of each metric contains the true value: a simulation with known truth.

    python benchmarks/coverage.py [--rows 300 1000 3000] [--samples 1000]

Rows are drawn from a population of 200,000 (20,000 for texts), whose metric is the truth. Samples are drawn anew, the
models are not: the interval of one trained model is about other rows. For retrieval, rows are queries.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pefttools.eval.statistics import Models, value_interval
from pefttools.metrics import Metric
from pefttools.metrics.additive import AdditiveMetric, MeanMetric
from pefttools.metrics.answers import AnswerableF1, AnswerF1
from pefttools.metrics.classes import F1, Accuracy, BalancedAccuracy, MatthewsCorrelation
from pefttools.metrics.cross_modal import DirectedHitRate
from pefttools.metrics.losses import LogLoss, Perplexity, TokenAccuracy
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.ranking import Ranking
from pefttools.metrics.regression import MAE, RMSE, Pearson, Spearman
from pefttools.metrics.retrieval import MRR, NDCG, Recall
from pefttools.metrics.sets import HammingLoss, SetF1, SubsetAccuracy
from pefttools.metrics.tagging import EntityF1, EntityPrecision, EntityRecall, TagAccuracy
from pefttools.metrics.transcripts import CER, WER

#: number of rows in the population
POPULATION = 200_000
TEXTS = 20_000
Rows = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True)
class Case:
    """A metric, and a function that draws predictions and references of its kind.

    Attributes:
        title: for the table.
        metric: the metric.
        draw: from a generator and a number of rows.
        population: rows that the truth is of.
    """

    title: str
    metric: Metric
    draw: Callable[[np.random.Generator, int], Rows]
    population: int = POPULATION


def _of_classes(classes: int, right: float) -> Callable[[np.random.Generator, int], Rows]:
    """Classes of different sizes, some of which are harder than others."""

    def draw(generator: np.random.Generator, rows: int) -> Rows:
        shares = np.linspace(1, 2, classes)
        truth = generator.choice(classes, rows, p=shares / shares.sum())
        hard = right + 0.1 * np.sin(np.arange(classes))
        other = generator.integers(0, classes, rows)
        found = np.where(generator.random(rows) < hard[truth], truth, other)
        sure = generator.uniform(0.2, 0.99, rows)
        predictions = [
            SimpleNamespace(answer=one, probabilities=_Sure(one, p, classes))
            for one, p in zip(found.tolist(), sure.tolist(), strict=True)
        ]
        return predictions, truth.tolist()

    return draw


class _Sure:
    """Probabilities, one of which is large, and the others similar."""

    def __init__(self, answer: int, p: float, classes: int) -> None:
        self.answer, self.p, self.classes = answer, p, classes

    def __getitem__(self, label: int) -> float:
        return self.p if label == self.answer else (1 - self.p) / (self.classes - 1)


def _numbers(generator: np.random.Generator, rows: int) -> Rows:
    """Ratings in steps, with normally distributed errors; with outliers the RMSE's intervals are too narrow."""
    truth = generator.normal(0, 1, rows).round(1)
    found = truth + generator.normal(0, 1, rows)
    return [SimpleNamespace(answer=one) for one in found.round(1).tolist()], truth.tolist()


def _tags(generator: np.random.Generator, rows: int) -> Rows:
    """Sentences with some entities; a model misses some of them, truncates some, and makes some up."""
    truth, found = [], []
    for length in generator.integers(3, 20, rows).tolist():
        true, given = ["O"] * length, ["O"] * length
        hard = generator.random() < 0.2  # as whole sentences are
        for place in range(0, length - 2, 3):
            if generator.random() < 0.3:
                true[place : place + 2] = ["B-PER", "I-PER"] if generator.random() < 0.5 else ["B-LOC", "I-LOC"]
                chance = generator.random()
                if chance < (0.5 if hard else 0.9):
                    given[place : place + 2] = true[place : place + 2]
                elif chance < 0.95:
                    given[place] = true[place]
            elif generator.random() < 0.03:
                given[place] = "B-PER"
        truth.append(true)
        found.append(given)
    return [SimpleNamespace(answer=one) for one in found], truth


def _sets(generator: np.random.Generator, rows: int) -> Rows:
    """Up to some of 20 labels."""
    shares = np.linspace(0.03, 0.3, 20)
    truth = generator.random((rows, 20)) < shares
    found = truth ^ (generator.random((rows, 20)) < 0.05)
    return (
        [SimpleNamespace(answer=_places(row), probabilities=range(20)) for row in found],
        [_places(row) for row in truth],
    )


def _places(row: NDArray[np.bool_]) -> frozenset[int]:
    return frozenset(np.flatnonzero(row).tolist())


def _forced(generator: np.random.Generator, rows: int) -> Rows:
    """Completions of different lengths."""
    tokens = generator.integers(1, 30, rows)
    level = generator.gamma(4, 0.2, rows)
    right = generator.binomial(tokens, np.exp(-level))
    numbers = zip((tokens * level).tolist(), right.tolist(), tokens.tolist(), strict=True)
    return [SimpleNamespace(loss=loss, right=good, tokens=count) for loss, good, count in numbers], [""] * rows


_WORDS = [
    f"{start}{end}" for start in ("ka", "lo", "mi", "ne", "pu", "ri", "so", "ta") for end in ("ben", "dol", "gar", "x")
]


def _texts(generator: np.random.Generator, rows: int) -> Rows:
    """Sentences; a model writes most words correctly, and leaves out, changes or adds some; some rows are hard."""
    given, true = [], []
    for length, wrong in zip(generator.integers(3, 16, rows), generator.beta(1, 6, rows), strict=True):
        words = generator.integers(0, len(_WORDS), length).tolist()
        kept = [
            one if draw > wrong else int(generator.integers(0, len(_WORDS)))
            for one, draw in zip(words, generator.random(length), strict=True)
            if draw > wrong / 3
        ]
        if generator.random() < wrong:
            kept.append(int(generator.integers(0, len(_WORDS))))
        true.append(" ".join(_WORDS[one] for one in words))
        given.append(SimpleNamespace(answer=" ".join(_WORDS[one] for one in kept)))
    return given, true


def _answers(generator: np.random.Generator, rows: int) -> Rows:
    """Answers to questions, a third of which has none; some are found where there is none, and vice versa."""
    given, true = _texts(generator, rows)
    none, missed = generator.random(rows) < 0.33, generator.random(rows) < 0.15
    references = [[""] if empty else [text] for text, empty in zip(true, none, strict=True)]
    empty = np.where(missed, ~none, none)
    return [SimpleNamespace(answer="" if no else one.answer) for one, no in zip(given, empty, strict=True)], references


def _queries(generator: np.random.Generator, rows: int) -> Rows:
    """One to three right candidates out of 60 for each query, usually ranked first."""
    found = []
    for count, first in zip(generator.integers(1, 4, rows).tolist(), generator.geometric(0.3, rows), strict=True):
        places = min(int(first), 50) + np.concatenate([[0], np.cumsum(generator.geometric(0.4, count - 1))])
        ranking = Ranking(tuple(int(one) for one in places), int(places[0]), count, 80)
        found.append(SimpleNamespace(ranking=ranking, rankings={"text_to_image": ranking}))
    return found, [None] * rows


def cases() -> list[Case]:
    """What is simulated."""
    few, many = _of_classes(5, 0.85), _of_classes(77, 0.85)
    return [
        Case("accuracy, 5 classes", Accuracy(), few),
        Case("balanced accuracy, 5 classes", BalancedAccuracy(), few),
        Case("macro F1, 5 classes", F1(), few),
        Case("weighted F1, 5 classes", F1("weighted"), few),
        Case("macro F1, 77 classes", F1(), many),
        Case("Matthews' correlation, 5 classes", MatthewsCorrelation(), few),
        Case("log loss, 5 classes", LogLoss(), few),
        Case("perplexity", Perplexity(), _forced),
        Case("token accuracy", TokenAccuracy(), _forced),
        Case("entity F1", EntityF1(), _tags),
        Case("entity precision", EntityPrecision(), _tags),
        Case("entity recall", EntityRecall(), _tags),
        Case("tag accuracy", TagAccuracy(), _tags),
        Case("micro F1 of sets, 20 labels", SetF1("micro"), _sets),
        Case("macro F1 of sets, 20 labels", SetF1(), _sets),
        Case("subset accuracy", SubsetAccuracy(), _sets),
        Case("Hamming loss", HammingLoss(), _sets),
        Case("RMSE", RMSE(), _numbers),
        Case("MAE", MAE(), _numbers),
        Case("Pearson", Pearson(), _numbers),
        Case("Spearman", Spearman(), _numbers),
        *(
            Case(title, metric, draw, TEXTS)
            for title, metric, draw in (
                ("BLEU", BLEU(), _texts),
                ("chrF", ChrF(), _texts),
                ("ROUGE-L", ROUGE(), _texts),
                ("word error rate", WER(), _texts),
                ("character error rate", CER(), _texts),
                ("F1 of answers' words", AnswerF1(), _answers),
                ("F1 of answers that there are", AnswerableF1(), _answers),
            )
        ),
        Case("nDCG@10", NDCG(10), _queries),
        Case("MRR@10", MRR(10), _queries),
        Case("recall@5", Recall(5), _queries),
        Case("hit rate@1, texts to pictures", DirectedHitRate(1, "text_to_image"), _queries),
    ]


def coverage(case: Case, rows: int, samples: int, random: int = 0) -> float:
    """Share of samples whose interval contains the truth."""
    generator = np.random.default_rng([random, rows])
    predictions, references = case.draw(generator, case.population)
    truth = case.metric.compute(predictions, references)
    drawn = _remembered(case.metric, predictions, references)
    inside = 0
    for _ in range(samples):
        values = drawn(generator.integers(0, case.population, rows))
        assert values is not None
        interval = value_interval(Models.of(values[None], case.metric.measure.bounds), None)
        inside += interval.low <= truth <= interval.high
    return inside / samples


def _remembered(
    metric: Metric, predictions: Sequence[Any], references: Sequence[Any]
) -> Callable[[NDArray[np.int64]], NDArray[np.float64] | None]:
    """The metric's numbers for a part of the rows, each computed only once."""
    if isinstance(metric, AdditiveMetric):
        whole = metric.contributions(predictions, references)
        given = copy.copy(metric)
        given.contributions = lambda chosen, _: whole[np.asarray(chosen)]  # type: ignore[method-assign]
        return lambda chosen: given.row_values(chosen, chosen)  # type: ignore[arg-type]
    if isinstance(metric, MeanMetric):
        numbers = metric.row_values(predictions, references)
        assert numbers is not None
        return lambda chosen: numbers[chosen]
    return lambda chosen: metric.row_values([predictions[i] for i in chosen], [references[i] for i in chosen])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--metrics", nargs="+", help="titles; by default all")
    arguments = parser.parse_args()
    print("| metric | " + " | ".join(f"{rows:,} rows" for rows in arguments.rows) + " |")
    print("|---" * (1 + len(arguments.rows)) + "|")
    for case in cases():
        if arguments.metrics and case.title not in arguments.metrics:
            continue
        found = [f"{100 * coverage(case, rows, arguments.samples):.1f} %" for rows in arguments.rows]
        print(f"| {case.title} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
