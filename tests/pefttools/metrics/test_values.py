"""Every metric equals its library's, and each row's number is what leaving out the row says."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.text import squad

from pefttools.errors import ConfigError
from pefttools.metrics import AdditiveMetric, Metric
from pefttools.metrics.answers import AnswerableF1, AnswerExactMatch, AnswerF1, UnanswerableAccuracy, normalized
from pefttools.metrics.choices import own_metric
from pefttools.metrics.classes import F1, Accuracy, BalancedAccuracy, MatthewsCorrelation, Precision, Recall
from pefttools.metrics.foreign import load_foreign
from pefttools.metrics.losses import LogLoss, Perplexity, TokenAccuracy, TokenLoss
from pefttools.metrics.regression import MAE, RMSE, Pearson, Spearman
from pefttools.metrics.sets import HammingLoss, SetF1, SetPrecision, SetRecall, SubsetAccuracy
from pefttools.metrics.tagging import EntityF1, EntityPrecision, EntityRecall, TagAccuracy, entities
from pefttools.metrics.texts import ExactMatch

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER"]
KINDS = {"precision": Precision, "recall": Recall, "f1": F1}
#: with all that is not counted: articles, signs, case, white space
ANSWERS = st.lists(
    st.sampled_from(["the", "A", "cat", "Cat.", "cat's", "an", "42,000", "  ", "été", "-"]), max_size=5
).map(" ".join)
SETS = {"precision": SetPrecision, "recall": SetRecall, "f1": SetF1}


def answers(values: Any) -> list[Any]:
    """Predictions with nothing but an answer."""
    return [SimpleNamespace(answer=value) for value in values]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 10**6))
def test_of_classes_scikit_learn_says_the_same(classes: int, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, found = generator.integers(0, classes, (2, rows)).tolist()
    predictions = answers(found)
    expected = {
        Accuracy(): sklearn_metrics.accuracy_score(truth, found),
        MatthewsCorrelation(): sklearn_metrics.matthews_corrcoef(truth, found),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected[BalancedAccuracy()] = sklearn_metrics.balanced_accuracy_score(truth, found)
        for name, kind in KINDS.items():
            function = getattr(sklearn_metrics, f"{name}_score")
            for average in ("macro", "micro", "weighted"):
                for zero in (0.0, 1.0):
                    expected[kind(average, zero)] = function(truth, found, average=average, zero_division=zero)
            if set(truth) | set(found) <= {0, 1}:
                expected[kind("binary")] = function(truth, found, average="binary", zero_division=0)
    for metric, value in expected.items():
        assert metric.compute(predictions, truth) == pytest.approx(value, abs=1e-12), metric.name


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10**6))
def test_of_sets_scikit_learn_says_the_same(labels: int, rows: int, seed: int) -> None:
    truth, found = np.random.default_rng(seed).random((2, rows, labels)) < 0.4
    references = [frozenset(np.flatnonzero(row).tolist()) for row in truth]
    predictions = [
        SimpleNamespace(answer=frozenset(np.flatnonzero(row).tolist()), probabilities=[0.0] * labels) for row in found
    ]
    expected: dict[Metric, float] = {
        SubsetAccuracy(): sklearn_metrics.accuracy_score(truth, found),
        HammingLoss(): sklearn_metrics.hamming_loss(truth, found),
    }
    for name, kind in SETS.items():
        function = getattr(sklearn_metrics, f"{name}_score")
        for average in ("macro", "micro", "weighted"):
            expected[kind(average)] = function(truth, found, average=average, zero_division=0)
    for metric, value in expected.items():
        if truth.any() or not metric.name.endswith("weighted"):  # scikit-learn calls 0 / 0 rows 0
            assert metric.compute(predictions, references) == pytest.approx(value, abs=1e-12), metric.name


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=12),
                min_size=1, max_size=6))  # fmt: skip
def test_of_entities_seqeval_says_the_same(rows: list[list[tuple[str, str]]]) -> None:
    truth = [[one for one, _ in row] for row in rows]
    found = [[other for _, other in row] for row in rows]
    for tags in (*truth, *found):
        assert list(entities(tags)) == get_entities(tags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            EntityF1(): f1_score(truth, found, zero_division=0),
            EntityPrecision(): precision_score(truth, found, zero_division=0),
            EntityRecall(): recall_score(truth, found, zero_division=0),
        }
    for metric, value in expected.items():
        assert metric.compute(answers(found), truth) == pytest.approx(value, abs=1e-12), metric.name
    right = [one == other for row in rows for one, other in row]
    assert TagAccuracy().compute(answers(found), truth) == pytest.approx(np.mean(right), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 60), st.floats(-1e3, 1e3), st.integers(0, 10**6))
def test_of_numbers_scipy_and_scikit_learn_say_the_same(rows: int, shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.normal(shift, 1, rows).round(1)
    found = (truth + generator.normal(0, 1, rows)).round(1)
    predictions, references = answers(found.tolist()), truth.tolist()
    assert RMSE().compute(predictions, references) == pytest.approx(
        sklearn_metrics.root_mean_squared_error(truth, found), abs=1e-12
    )
    assert MAE().compute(predictions, references) == pytest.approx(
        sklearn_metrics.mean_absolute_error(truth, found), abs=1e-12
    )
    if np.ptp(truth) and np.ptp(found):
        pearson, spearman = stats.pearsonr(truth, found).statistic, stats.spearmanr(truth, found).statistic
        assert Pearson().compute(predictions, references) == pytest.approx(pearson, abs=1e-9)
        assert Spearman().compute(predictions, references) == pytest.approx(spearman, abs=1e-12)


def test_what_is_alike_in_all_rows_has_no_correlation() -> None:
    for metric in (Pearson(), Spearman()):
        assert np.isnan(metric.compute(answers([2.5] * 4), [1.0, 2.0, 3.0, 4.0]))
        assert metric.row_values(answers([2.5] * 4), [1.0, 2.0, 3.0, 4.0]) is None


def test_losses() -> None:
    given_ = [SimpleNamespace(probabilities=(0.5, 0.5)), SimpleNamespace(probabilities=(0.0, 1.0))]
    assert LogLoss().compute(given_, [0, 1]) == pytest.approx(np.log(2) / 2)
    assert LogLoss().compute(given_, [0, 0]) == pytest.approx((np.log(2) - np.log(1e-30)) / 2), "never infinite"
    forced = [SimpleNamespace(loss=3.0, right=1, tokens=2), SimpleNamespace(loss=1.0, right=2, tokens=2)]
    assert TokenLoss().compute(forced, ["", ""]) == 1.0
    assert Perplexity().compute(forced, ["", ""]) == pytest.approx(np.e)
    assert TokenAccuracy().compute(forced, ["", ""]) == 0.75
    assert ExactMatch().compute(answers([" 9 apples", "8"]), ["9 apples", "9"]) == 0.5


def _samples(rows: int, seed: int = 0) -> list[tuple[Metric, list[Any], list[Any]]]:
    """Metrics with predictions and references of their kind."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 5, rows)
    found = np.where(generator.random(rows) < 0.7, truth, generator.integers(0, 5, rows))
    of_classes: list[Metric] = [Accuracy(), BalancedAccuracy(), MatthewsCorrelation()]
    of_classes += [kind(average) for kind in KINDS.values() for average in ("macro", "micro", "weighted")]  # type: ignore[arg-type]
    ratings = generator.normal(0, 1, rows).round(1)
    guessed = (ratings + generator.normal(0, 1, rows)).round(1)
    tagged = [[TAGS[n] for n in generator.integers(0, 5, generator.integers(1, 9))] for _ in range(rows)]
    retagged = [[tag if generator.random() < 0.8 else "O" for tag in row] for row in tagged]
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in generator.random((rows, 4)) < 0.4]
    others = [one ^ frozenset(np.flatnonzero(row).tolist()) for one, row in zip(sets, generator.random((rows, 4)) < 0.2,
                                                                                strict=True)]  # fmt: skip
    of_sets = [SimpleNamespace(answer=one, probabilities=[0.0] * 4) for one in others]
    forced = [
        SimpleNamespace(loss=float(loss), right=n % 3, tokens=2 + n % 4)
        for n, loss in enumerate(generator.exponential(1, rows))
    ]
    return [
        *((one, answers(found.tolist()), truth.tolist()) for one in of_classes),
        *((one, answers(guessed.tolist()), ratings.tolist()) for one in (RMSE(), MAE(), Pearson(), Spearman())),
        *((one, answers(retagged), tagged) for one in (EntityF1(), EntityPrecision(), EntityRecall(), TagAccuracy())),
        *((one, of_sets, sets) for one in (SubsetAccuracy(), HammingLoss(), SetF1(), SetF1("micro"), SetPrecision(),
                                           SetRecall())),
        *((one, forced, [""] * rows) for one in (TokenLoss(), Perplexity(), TokenAccuracy())),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "predictions", "references"), _samples(80), ids=lambda one: getattr(one, "name", "")
)
def test_the_rows_numbers_are_those_of_leaving_out_each(
    metric: Metric, predictions: list[Any], references: list[Any]
) -> None:
    value = metric.compute(predictions, references)
    rows = metric.row_values(predictions, references)
    assert rows is not None and rows.mean() == pytest.approx(value, abs=1e-9)
    size = len(references)
    kept = [[i for i in range(size) if i != one] for one in range(size)]
    without = np.array([metric.compute([predictions[i] for i in k], [references[i] for i in k]) for k in kept])
    expected = value + (size - 1) * (without.mean() - without)
    # Spearman's is its influence function, which leaving out rows comes near to with more of them
    exact = isinstance(metric, AdditiveMetric) or not isinstance(metric, Spearman)
    assert rows == pytest.approx(expected, abs=1e-7 if exact else 0.15)
    assert np.corrcoef(rows, expected)[0, 1] > 0.9999


def test_options_that_a_metric_does_not_have_are_refused() -> None:
    assert own_metric({"name": "f1", "average": "micro"}, KINDS).name == "f1_micro"  # type: ignore[union-attr]
    assert own_metric("f1", KINDS).name == "f1" and own_metric("./script.py", KINDS) is None  # type: ignore[union-attr]
    for choice, problem in (
        ({"name": "f1", "averge": "macro"}, "the metric 'f1' does not take these options: .*averge"),
        ({"name": "f1", "average": "makro"}, "macro, micro, weighted or binary"),
        ({"average": "macro"}, "a mapping needs the field 'name'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            own_metric(choice, KINDS)  # type: ignore[arg-type]


_COUNTED = """
import datasets
import evaluate

class Counted(evaluate.Metric):
    runs = 0

    def _info(self):
        value = datasets.Value("int64")
        return evaluate.MetricInfo(description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": value, "references": value}))

    def _compute(self, predictions, references):
        type(self).runs += 1
        right = sum(p == r for p, r in zip(predictions, references)) / len(references)
        return {"right": right, "wrong": 1 - right}
"""


def test_a_metric_of_elsewhere_is_run_once_for_all_its_numbers(tmp_path: Path) -> None:
    script = tmp_path / "counted.py"
    script.write_text(_COUNTED)
    right, wrong = load_foreign(str(script), {}, [0, 1], ())
    truth, found = np.random.default_rng(0).integers(0, 2, (2, 400)).tolist()
    predictions = answers(found)
    runs = right._module._module.runs  # type: ignore[attr-defined]
    assert right.compute(predictions, truth) + wrong.compute(predictions, truth) == pytest.approx(1)
    assert right._module._module.runs == runs + 1  # type: ignore[attr-defined]
    assert right.compute(answers(truth), truth) == 1.0, "other predictions are looked at anew"
    # By leaving out parts its rows vary as much, all in all, as they do one by one.
    values, own = right.row_values(predictions, truth), Accuracy().row_values(predictions, truth)
    assert values is not None and own is not None
    assert values.mean() == pytest.approx(own.mean()) and values.std() == pytest.approx(own.std(), rel=0.3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_of_answers_torchmetrics_says_the_same(rows: list[tuple[str, list[str]]]) -> None:
    """Its sums are of 32 bits."""
    predictions, references = answers(given for given, _ in rows), [list(truth) for _, truth in rows]
    expected = squad(
        [{"prediction_text": given, "id": str(n)} for n, (given, _) in enumerate(rows)],
        [
            {"answers": {"text": truth, "answer_start": [0] * len(truth)}, "id": str(n)}
            for n, truth in enumerate(references)
        ],
    )
    assert AnswerF1().compute(predictions, references) == pytest.approx(float(expected["f1"]) / 100, abs=1e-6)
    exact = AnswerExactMatch().compute(predictions, references)
    assert exact == pytest.approx(float(expected["exact_match"]) / 100, abs=1e-6)


def test_of_answers_by_hand() -> None:
    assert normalized("The  quick-brown Fox, a dog's.") == "quickbrown fox dogs"
    given = answers(["the cat sat", "", "Oslo", ""])
    truth = [["a cat", "cat sat down"], [""], [""], ["Oslo"]]
    assert AnswerF1().row_values(given, truth).tolist() == [0.8, 1, 0, 0]  # type: ignore[union-attr]
    assert AnswerExactMatch().row_values(given, truth).tolist() == [0, 1, 0, 0]  # type: ignore[union-attr]
    assert AnswerableF1().compute(given, truth) == pytest.approx(0.4, abs=1e-12)
    assert UnanswerableAccuracy().compute(given, truth) == pytest.approx(0.5, abs=1e-12)
    assert np.isnan(UnanswerableAccuracy().compute(given[:1], truth[:1]))
