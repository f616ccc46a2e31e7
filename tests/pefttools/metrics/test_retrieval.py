"""Retrieval metrics equal those of libraries, their ties go against the model, and chance is exact."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttools.metrics import ranking as module
from pefttools.metrics.ranking import ByChance, Ranking, rank
from pefttools.metrics.retrieval import MRR, NDCG, HitRate, Recall, RetrievalMetric
from pefttools.testing.rows import table_of_rows
from tests.conftest import MINILM

METRICS: list[RetrievalMetric] = [NDCG(10), NDCG(3), Recall(1), Recall(5), Recall(10), MRR(10), MRR(None), HitRate(1)]
Rankings = list[Ranking]


@dataclass
class _Prediction:
    ranking: Any


def _measured(metric: RetrievalMetric, rankings: list[Any]) -> float:
    return metric.compute([_Prediction(one) for one in rankings], [None] * len(rankings))


def _problem(seed: int, queries: int, candidates: int) -> tuple[Any, Any, list[Any], list[Any]]:
    """Vectors of a few whole numbers, so that many scores are equal."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (candidates, 3)).astype(np.float32)
    asked = generator.integers(-2, 3, (queries, 3)).astype(np.float32)
    right = [np.sort(generator.permutation(candidates)[: generator.integers(0, 4)]) for _ in range(queries)]
    without = [generator.permutation(candidates)[: generator.integers(0, 2)] for _ in range(queries)]
    return asked, vectors, right, without


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 24), st.integers(1, 12), st.integers(1, 60))
def test_places_are_those_of_a_plain_sort(seed: int, queries: int, candidates: int, depth: int, at_a_time: int) -> None:
    asked, vectors, right, without = _problem(seed, queries, candidates)
    whole, module._AT_A_TIME = module._AT_A_TIME, at_a_time
    try:
        found = rank(asked, vectors, right, without, depth)
    finally:
        module._AT_A_TIME = whole
    for row, one in enumerate(found):
        relevant = set(right[row].tolist()) - set(without[row].tolist())
        others = [index for index in range(candidates) if index not in without[row]]
        # wrong ones first among equals
        order = sorted(others, key=lambda index: (-float(vectors[index] @ asked[row]), index in relevant))
        places = [place for place, index in enumerate(order, 1) if index in relevant]
        assert one.ranking == Ranking(
            tuple(place for place in places if place <= depth), places[0] if places else 0, len(relevant), len(others)
        )
        assert one.nearest == -1 if not order else (one.nearest in relevant) == (order[0] in relevant)


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    same = np.ones((50, 4), dtype=np.float32)
    found = rank(same, same, [np.arange(25)] * 50, [np.array([index]) for index in range(50)], 10)
    rankings = [one.ranking for one in found]
    assert [_measured(metric, rankings) for metric in (NDCG(10), Recall(10), MRR(10), HitRate(1))] == [0.0] * 4
    assert 0 < _measured(MRR(None), rankings) < 1 / 20


def test_what_is_not_a_number_is_worst() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[2] = np.nan
    found = rank(vectors, vectors, [np.array([2, 3])] * 4, [np.array([index]) for index in range(4)], 10)
    assert [one.ranking.places for one in found] == [(2, 3), (2, 3), (3,), (3,)]
    assert [one.ranking.first for one in found] == [2, 2, 3, 3]


@pytest.fixture(scope="module")
def predictions(intents: dict[str, str]) -> tuple[Any, Any]:
    """What MiniLM says of real rows, ranked, and its embeddings."""
    import csv
    from pathlib import Path

    import pefttools

    model = pefttools.wrap(MINILM, "untuned", task="sentence-embedding", precision="float32")
    with Path(intents["test"]).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[:60]
    task = model.spec.task
    examples = task.encode(table_of_rows(rows, task), model.processor, ())
    return task.evaluate(model, examples, batch_size=16), [row["label"] for row in rows]


def test_values_equal_scikit_learn_and_sentence_transformers(predictions: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sklearn.metrics import ndcg_score

    evaluation, labels = predictions
    vectors = np.array([one.answer for one in evaluation.predictions], dtype=np.float64)
    count = len(labels)
    relevant = {str(n): {str(m) for m in range(count) if m != n and labels[m] == labels[n]} for n in range(count)}
    texts: dict[str, Any] = {str(n): "x" for n in range(count)}
    ks = [1, 3, 5, 10]
    # It takes every text for a candidate, the query too: what it is given here has the query left out.
    library = InformationRetrievalEvaluator(
        texts, texts, relevant, mrr_at_k=ks, ndcg_at_k=ks, accuracy_at_k=ks, precision_recall_at_k=ks
    )
    hits: list[object] = [
        [{"corpus_id": str(m), "score": float(vectors[n] @ vectors[m])} for m in range(count) if m != n]
        for n in range(count)
    ]
    theirs = library.compute_metrics(hits)
    rankings = [one.ranking for one in evaluation.predictions]
    for k in ks:
        assert _measured(NDCG(k), rankings) == pytest.approx(theirs["ndcg@k"][k], abs=1e-12)
        assert _measured(Recall(k), rankings) == pytest.approx(theirs["recall@k"][k], abs=1e-12)
        assert _measured(MRR(k), rankings) == pytest.approx(theirs["mrr@k"][k], abs=1e-12)
        assert _measured(HitRate(k), rankings) == pytest.approx(theirs["accuracy@k"][k], abs=1e-12)
    others = ~np.eye(count, dtype=bool)
    truth = np.array([[one == other for other in labels] for one in labels])[others].reshape(count, -1)
    scores = (vectors @ vectors.T)[others].reshape(count, -1)
    for k in (3, 10):
        assert _measured(NDCG(k), rankings) == pytest.approx(ndcg_score(truth, scores, k=k), abs=1e-12)
    assert 0.5 < evaluation.metrics["ndcg@10"] < 1.0, "a real model, which is neither blind nor right in all"


def test_every_metric_is_the_mean_of_its_queries(predictions: Any) -> None:
    evaluation, _ = predictions
    for metric in evaluation.measured:
        assert evaluation.row_values(metric.name).mean() == pytest.approx(evaluation.metrics[metric.name], abs=1e-12)


def test_a_query_without_a_right_candidate_counts_in_no_metric() -> None:
    rankings = [Ranking((1,), 1, 1, 9), Ranking((), 0, 0, 9), Ranking((2,), 2, 1, 9)]
    assert _measured(Recall(1), rankings) == 0.5
    assert _measured(MRR(10), rankings) == 0.75
    assert math.isnan(_measured(NDCG(10), rankings[1:2]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(1, 8))
def test_chance_is_the_mean_over_all_orders(relevant: int, wrong: int, k: int) -> None:
    count = relevant + wrong
    orders = [
        Ranking(tuple(place + 1 for place in places), places[0] + 1, relevant, count)
        for places in itertools.combinations(range(count), relevant)
    ]
    chance = ByChance(relevant, count)
    for metric in (NDCG(k), Recall(k), MRR(k), MRR(None), HitRate(k)):
        assert _measured(metric, [chance]) == pytest.approx(_measured(metric, list(orders)), abs=1e-12)


def test_options_that_can_not_be_are_refused() -> None:
    for wrong in (0, -1, True, "5", 2.5):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            Recall(wrong)  # type: ignore[arg-type]
    assert (MRR(None).name, MRR().name) == ("mrr", "mrr@10")
