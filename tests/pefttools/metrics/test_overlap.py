"""BLEU, chrF and ROUGE are those of their libraries, and each row's part in them is what leaving it out shows."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from sacrebleu.metrics.chrf import CHRF as SacreCHRF

from pefttools.errors import ConfigError
from pefttools.metrics import Metric
from pefttools.metrics.overlap import BLEU, ROUGE, ChrF
from pefttools.metrics.transcripts import WER
from pefttools.tasks.language.generation import TextPrediction

TEXT = st.lists(st.sampled_from(["the", "Cat", "sat", "on", "mats", "a", ".", "dog"]), max_size=9).map(" ".join)
ROWS = st.lists(st.tuples(TEXT, TEXT.filter(bool)), min_size=2, max_size=8)


def _split(rows: list[tuple[str, str]]) -> tuple[list[TextPrediction], list[str]]:
    return [TextPrediction(answer) for answer, _ in rows], [reference for _, reference in rows]


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_bleu_and_chrf_are_sacrebleus(rows: list[tuple[str, str]]) -> None:
    answers, references = [answer for answer, _ in rows], [reference for _, reference in rows]
    for ours, theirs in (
        (BLEU(), SacreBLEU()),
        (BLEU("char", lowercase=True), SacreBLEU(tokenize="char", lowercase=True)),
        (ChrF(), SacreCHRF()),
        (ChrF(word_order=2), SacreCHRF(word_order=2)),
    ):
        wanted = theirs.corpus_score(answers, [references])
        assert ours.compute(*_split(rows)) == pytest.approx(wanted.score, abs=1e-12)
        assert ours.signature == str(theirs.get_signature())


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_rouge_is_the_mean_of_the_librarys(rows: list[tuple[str, str]]) -> None:
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        scorer = RougeScorer([kind], use_stemmer=True)
        wanted = [scorer.score(reference, answer)[kind].fmeasure for answer, reference in rows]
        metric = ROUGE(kind, stemmer=True)  # type: ignore[arg-type]
        assert metric.compute(*_split(rows)) == pytest.approx(float(np.mean(wanted)), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(ROWS)
def test_a_rows_influence_is_what_leaving_it_out_shows(rows: list[tuple[str, str]]) -> None:
    metric = ChrF()
    values = metric.row_values(*_split(rows))
    assert values is not None
    without = [metric.compute(*_split([*rows[:index], *rows[index + 1 :]])) for index in range(len(rows))]
    assert math.isclose(values.mean(), metric.compute(*_split(rows)), abs_tol=1e-9)
    assert np.allclose(values - values.mean(), (len(rows) - 1) * (np.mean(without) - np.array(without)), atol=1e-9)


def test_a_tokenizer_that_needs_more_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"flores200.*needs further files"):
        BLEU("flores200")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "module"),
    [(BLEU(), "sacrebleu.metrics.bleu"), (ROUGE(), "rouge_score.rouge_scorer"), (WER(), "jiwer")],
    ids=["sacrebleu", "rouge-score", "jiwer"],
)
def test_a_package_that_is_not_there_is_named_before_anything_is_measured(
    metric: Metric, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"the metric '{metric.name}' needs the package") as caught:
        metric.ready()
    assert caught.value.hint == 'pip install "pefttools[scores]"'
