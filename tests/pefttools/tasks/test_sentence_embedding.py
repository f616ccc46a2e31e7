"""Sentence embedding: rows and their errors, the loss of a whole batch, and what is found."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pefttools
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import choose_task
from pefttools.tasks.embedding.contrast import IGNORE, RIGHT, WRONG, contrast, of_labels, of_pairs
from pefttools.testing import check_task
from pefttools.testing.rows import table_of_rows
from pefttools.training.sampler import LengthWindowSampler
from tests.pefttools.tasks.samples import SAMPLES

NAME = "sentence-embedding"
PAIRS = SAMPLES[NAME][1]
LABELS = [{"text": row["text"] + f" {n}", "label": f"l{n % 4}"} for n, row in enumerate(PAIRS)]


def _task(**options: Any) -> Any:
    return choose_task({"name": NAME, **options})


def _file(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "rows") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def _recipe(base: str, data: str, output: Path, **changes: Any) -> dict[str, Any]:
    training = {"max_steps": 4, "batch_size": 8, "precision": "float32", **changes.pop("training", {})}
    return {
        "base": base, "method": "lora", "task": NAME, "data": {"train": data, "validation": 0.34},
        "training": training, "output": str(output), **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"text": "a"}], {}, "no column for 'positive' or for 'label'"),
        ([{"text": "a", "positive": "b", "label": "c"}], {}, "only one can say what is near"),
        ([{"text": "a", "label": "c"}], {"form": "pairs"}, "no column for 'positive', which task.form=pairs reads"),
        ([{"text": "a", "label": "c", "negative": "b"}], {}, "holds hard negatives, which go with a 'positive'"),
        (
            [{"text": "a", "positive": "b"}, {"text": "a", "positive": " "}],
            {},
            "row 2, column 'positive': expected text",
        ),
        ([{"text": " ", "positive": "b"}], {}, "row 1, column 'text': expected text"),
        (
            [{"text": "a", "positive": "b", "negative": ["c", 3]}],
            {},
            "row 1, column 'negative': expected text, got 3",
        ),
        (
            [{"text": "a", "positive": "b", "negative": "b"}],
            {},
            "row 1, column 'negative': it is also the row's positive",
        ),
        ([{"text": "a", "label": "c"}, {"text": "b", "label": None}], {}, "row 2, column 'label': the label is empty"),
        ([{"text": "a", "label": "c"}, {"text": "b", "label": "d"}], {}, "no label in the column 'label' occurs twice"),
        ([{"text": "a", "label": "c"}, {"text": "b", "label": "c"}], {}, "all rows have the same label, 'c'"),
    ],
)
def test_rows_that_can_not_be_learned_are_refused(rows: Any, options: dict[str, Any], said: str) -> None:
    task = _task(**options)
    with pytest.raises(DataError) as caught:
        task.check(table_of_rows(rows, task), ())
    assert said in str(caught.value) + str(caught.value.hint)


def test_a_column_that_is_not_meant_is_told_from_the_one_that_is() -> None:
    rows = [{"text": "a", "positive": "b", "label": "c"}, {"text": "x", "positive": "y", "label": "c"}, {
        "text": "x", "positive": "y", "label": "d"}]  # fmt: skip
    for form in ("pairs", "labels"):
        task = _task(form=form)
        task.check(table_of_rows(rows, task), ())


def test_a_head_that_is_not_there_is_not_trained_alone(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"trains a head, and there is none to train unless task\.projection=true"):
        pefttools.wrap(tiny_bert, "head", task=NAME)
    model = pefttools.wrap(tiny_bert, "head", task={"name": NAME, "projection": True})
    assert model.count().trainable == 64 * 64


def test_a_projection_begins_as_the_identity(tiny_bert: str) -> None:
    plain = pefttools.predict(pefttools.wrap(tiny_bert, "lora", task=NAME), ["one two"])
    projected = pefttools.predict(
        pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "projection": True}), ["one two"]
    )
    found = np.array([one[0]["prediction"] for one in (plain, projected)])
    assert np.allclose(found[0], found[1], atol=1e-6) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_who_is_a_negative_of_whom_in_a_batch() -> None:
    # a's second positive, and the positive that two texts share, are no negatives; nor is a text's own.
    found = of_pairs(["a", "a", "b", "c"], ["x", "y", "x", "z"], ["b", "x"])
    assert found.tolist() == [
        [RIGHT, IGNORE, IGNORE, WRONG, WRONG, IGNORE],
        [IGNORE, RIGHT, IGNORE, WRONG, WRONG, IGNORE],
        [IGNORE, WRONG, RIGHT, WRONG, IGNORE, IGNORE],
        [WRONG, WRONG, WRONG, RIGHT, WRONG, WRONG],
    ]
    found = of_labels(["a", "b", "a", "c"], ["1", "1", "2", "2"])
    assert found.tolist() == [
        [IGNORE, RIGHT, IGNORE, WRONG],
        [RIGHT, IGNORE, WRONG, WRONG],
        [IGNORE, WRONG, IGNORE, RIGHT],
        [WRONG, WRONG, RIGHT, IGNORE],
    ]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_that_of_sentence_transformers(symmetric: bool) -> None:
    """InfoNCE by cross entropy over all candidates, where none is ignored."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(18, 7, generator=generator), dim=-1)
    texts, positives = [f"t{n}" for n in range(6)], [f"p{n}" for n in range(6)]
    task = _task(temperature=0.1, symmetric=symmetric)
    loss = task.loss(vectors, of_pairs(texts, positives, positives_of_others := [f"n{n}" for n in range(6)]))
    assert len(positives_of_others) == 6
    scores = vectors[:6] @ vectors[6:].T / 0.1
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(scores[:, :6].T, torch.arange(6))) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_rows_without_a_right_candidate_count_as_nothing() -> None:
    scores = torch.zeros(3, 3, requires_grad=True)
    alone = of_labels(["a", "b", "c"], ["1", "2", "3"])
    loss = contrast(scores, alone)
    loss.backward()
    assert float(loss.detach()) == 0.0 and scores.grad is not None and not scores.grad.any()
    some = contrast(torch.zeros(3, 3), of_labels(["a", "b", "c"], ["1", "1", "2"]))
    assert float(some) == pytest.approx(math.log(2))  # one right, one wrong, equally near; c has none


@pytest.mark.parametrize("rows", [PAIRS, pytest.param(LABELS, marks=pytest.mark.slow)], ids=["pairs", "labels"])
def test_parts_of_a_batch_train_as_the_whole_does(rows: list[dict[str, Any]], tiny_bert: str, tmp_path: Path) -> None:
    """Not as smaller batches would, whose rows have fewer negatives."""
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(tiny_bert).iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps({**config, **still}))
    weights = {}
    for name, training in {
        "whole": {}, "parts": {"gradient_accumulation": 4}, "smaller": {"batch_size": 2},
    }.items():  # fmt: skip
        fixed = {"max_steps": 3, "warmup": 0, "learning_rate": 0.01, **training}
        recipe = _recipe(str(base), _file(tmp_path, rows), tmp_path / name, training=fixed)
        pefttools.train({**recipe, "storage": "float32"})
        weights[name] = load_file(tmp_path / name / "adapter_model.safetensors")
    whole = weights["whole"]
    assert all(torch.allclose(one, weights["parts"][key], atol=1e-4) for key, one in whole.items())
    assert any(not torch.allclose(one, weights["smaller"][key], atol=5e-3) for key, one in whole.items())


def test_a_batch_is_not_shared_among_processes(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttools.training.prepare.world_size", lambda: 2)
    with pytest.raises(ConfigError, match="compares all rows of a batch, which 2 processes can't share"):
        pefttools.train(_recipe(tiny_bert, _file(tmp_path, PAIRS), tmp_path / "out"))


def test_rows_of_one_label_meet_and_equal_positives_do_not() -> None:
    lengths = [5 + (n * 7) % 11 for n in range(640)]
    labels = [n % 80 for n in range(640)]
    order = list(LengthWindowSampler(lengths, 16, 0, together=labels))
    assert sorted(order) == list(range(640))
    batches = [order[start : start + 16] for start in range(0, 640, 16)]
    alone = sum(count == 1 for batch in batches for count in Counter(labels[one] for one in batch).values())
    assert alone == 0
    plain = list(LengthWindowSampler(lengths, 16, 0))
    assert plain != order
    # Texts of four rows each: sorted by length alone, equal ones stand side by side.
    same = [n % 160 for n in range(640)]
    sizes = [5 + one for one in same]

    def repeated(order: list[int]) -> int:
        cut = [order[start : start + 16] for start in range(0, 640, 16)]
        return sum(16 - len({same[one] for one in batch}) for batch in cut)

    apart = list(LengthWindowSampler(sizes, 16, 0, apart=same))
    assert sorted(apart) == list(range(640))
    assert repeated(list(LengthWindowSampler(sizes, 16, 0))) > 400 and repeated(apart) == 0


def test_leaks_between_splits_are_told(tiny_bert: str, tmp_path: Path) -> None:
    train, test = _file(tmp_path, PAIRS[:16], "train"), _file(tmp_path, PAIRS[12:], "test")
    data = {"train": train, "validation": test}
    stored = pefttools.train({**_recipe(tiny_bert, train, tmp_path / "out"), "data": data, "method": "untuned"})
    assert stored is not None
    notes = "\n".join(stored.manifest.training["notes"])
    assert "different positives are also in train" in notes and "have an input that is also in train" in notes
    data = {"train": _file(tmp_path, LABELS[:16], "train"), "validation": _file(tmp_path, LABELS[15:], "test")}
    stored = pefttools.train({**_recipe(tiny_bert, train, tmp_path / "labels"), "data": data, "method": "untuned"})
    assert stored is not None
    assert "4 of 4 labels also occur in train; set data.group" in "\n".join(stored.manifest.training["notes"])


def test_candidates_are_all_texts_that_may_be_found(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "untuned", task=NAME, precision="float32")
    task = model.spec.task
    rows: list[dict[str, Any]] = [
        {"text": "one", "positive": "two three", "negative": ["four", "five"]},
        {"text": "one", "positive": "six seven eight", "negative": None},
        {"text": "two three", "positive": "nine", "negative": "one"},
    ]
    found = task.evaluate(model, task.encode(table_of_rows(rows, task), model.processor, ()), batch_size=2)
    rankings = [one.ranking for one in found.predictions]  # type: ignore[attr-defined]
    # two three, four, five, six seven eight, nine, one; a text is not its own candidate
    assert [(one.relevant, one.candidates) for one in rankings] == [(2, 5), (2, 5), (1, 5)]
    chance = task.uninformed(found.references, ())
    assert [(one.ranking.relevant, one.ranking.candidates) for one in chance] == [(2, 5), (2, 5), (1, 5)]
    entry = found.entries()[2]
    assert entry["reference"] == "nine" and entry["prediction"] in {"four", "five", "six seven eight", "nine", "one"}


def test_a_model_that_finds_no_more_than_chance_has_not_learned(tiny_bert: str) -> None:
    from dataclasses import replace

    from pefttools.training.learning import why_not_learned
    from pefttools.training.selection import Selection

    model = pefttools.wrap(tiny_bert, "untuned", task=NAME, precision="float32")
    task = model.spec.task
    examples = task.encode(table_of_rows(LABELS, task), model.processor, ())
    found = task.evaluate(model, examples, batch_size=8)
    selection = Selection("ndcg@10", greater_is_better=True)
    chance = task.uninformed(found.references, ())
    assert chance is not None
    bar = pefttools.tasks.Evaluation.of(task.metrics, chance, found.references)
    worse = replace(found, metrics={**found.metrics, "ndcg@10": bar.metrics["ndcg@10"] - 0.01})
    better = replace(found, metrics={**found.metrics, "ndcg@10": bar.metrics["ndcg@10"] + 0.01})
    assert "'a random order' for every row" in (why_not_learned(task, selection, worse, (), None) or "")
    assert why_not_learned(task, selection, better, (), None) is None


def test_predictions_are_vectors_and_a_file_of_them_is_written(tiny_bert: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pefttools.cli.main import build_app

    stored = pefttools.train(_recipe(tiny_bert, _file(tmp_path, PAIRS), tmp_path / "out"))
    assert stored is not None
    texts = [row["text"] for row in PAIRS[:3]]
    asked = _file(tmp_path, [{"text": text} for text in texts], "asked")
    done = CliRunner().invoke(
        build_app(), ["predict", str(tmp_path / "out"), "--data", asked, "--output", str(tmp_path / "found.jsonl")]
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    expected = pefttools.predict(stored.model, texts)
    assert [len(one["prediction"]) for one in lines] == [64] * 3
    assert np.allclose([one["prediction"] for one in lines], [one["prediction"] for one in expected], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "rows"), [("tiny_llama", PAIRS), ("tiny_llama", LABELS), ("tiny_bert", LABELS)])
def test_other_bases_and_labels_hold_the_contract(
    base: str, rows: list[dict[str, Any]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    check_task({"name": NAME, "projection": True}, base=request.getfixturevalue(base), rows=rows, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("projection", [False, True])
def test_merged_it_is_opened_by_others(projection: bool, tiny_bert: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    recipe = _recipe(tiny_bert, _file(tmp_path, PAIRS), tmp_path / "out", training={"learning_rate": 0.02})
    pefttools.train({**recipe, "task": {"name": NAME, "projection": projection}})
    texts = [row["text"] for row in PAIRS[:5]]
    expected = np.array([one["prediction"] for one in pefttools.predict(tmp_path / "out", texts)])
    pefttools.merge(tmp_path / "out", tmp_path / "st", format="sentence-transformers")
    found = SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(texts)
    assert np.allclose(found, expected, atol=1e-5)
    untuned = pefttools.predict(pefttools.wrap(tiny_bert, "untuned", task=NAME, precision="float32"), texts)
    assert not np.allclose([one["prediction"] for one in untuned], expected, atol=1e-3), "it was tuned"
    if projection:
        with pytest.raises(ConfigError, match="no place for its projection"):
            pefttools.merge(tmp_path / "out", tmp_path / "plain")
        return
    pefttools.merge(tmp_path / "out", tmp_path / "plain")
    tokenizer, model = (one.from_pretrained(tmp_path / "plain") for one in (AutoTokenizer, AutoModel))
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert np.allclose(vectors.numpy(), expected, atol=1e-5)
