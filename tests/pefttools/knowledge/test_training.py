"""A recipe with passages that are looked up, and what is predicted from its artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError
from pefttools.eval import bench
from pefttools.eval.spec import BenchSpec, plan
from pefttools.knowledge import KnowledgeIndex
from pefttools.objectives.distillation import Distillation
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe, validate
from pefttools.training.prepare import build_model, prepare
from pefttools.training.shown import teach

from .makers import PASSAGES, WORDS

ROWS = [{"text": " ".join(WORDS[n % 7 : n % 7 + 3]), "label": ("few", "many")[n % 2]} for n in range(30)]


def _recipe(found: KnowledgeIndex, base: str, folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return {
        "base": base, "method": "lora", "task": {"name": "sequence-classification", "head": "mean"},
        "data": {"train": str(path), "validation": 0.2}, "knowledge": {"index": str(found.folder), "passages": 2},
        "training": {"max_steps": 2, "batch_size": 8, "precision": "float32"}, "output": str(folder / "a"), **changes,
    }  # fmt: skip


def test_the_model_reads_what_was_found(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path) -> None:
    """As a model that is given the same passages as a column of its data."""
    stored = pefttools.train(_recipe(knowledge, tiny_bert, tmp_path))
    assert stored is not None
    hits = knowledge.search([row["text"] for row in ROWS], 2)
    rows = [{**row, "pair": "\n".join(hit.text for hit in found)} for row, found in zip(ROWS, hits, strict=True)]
    (tmp_path / "by-hand.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = _recipe(knowledge, tiny_bert, tmp_path, output=str(tmp_path / "b"))
    data = {"train": str(tmp_path / "by-hand.jsonl"), "validation": 0.2}
    other = pefttools.train({**recipe, "data": data, "knowledge": None})
    assert other is not None
    texts = [row["text"] for row in ROWS[:5]]
    by_hand = pefttools.predict(other.model, [{"text": row["text"], "pair": row["pair"]} for row in rows[:5]])
    found = pefttools.predict(tmp_path / "a", texts, knowledge=knowledge.folder)
    for one, expected, sources in zip(found, by_hand, hits, strict=False):
        assert one["score"] == pytest.approx(expected["score"], abs=1e-6)
        assert [source["id"] for source in one["sources"]] == [hit.id for hit in sources]
    metrics = pefttools.evaluate(tmp_path / "a", str(tmp_path / "rows.jsonl"), knowledge=knowledge).metrics
    assert metrics == pytest.approx(pefttools.evaluate(other.model, str(tmp_path / "by-hand.jsonl")).metrics)


def test_without_an_index_it_says_what_is_missing(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path) -> None:
    pefttools.train(_recipe(knowledge, tiny_bert, tmp_path))
    assert pefttools.inspect(tmp_path / "a").knowledge is not None
    with pytest.raises(ConfigError, match="no index is given"):
        pefttools.predict(tmp_path / "a", ["one two"])
    with pytest.raises(ConfigError, match="no index is given"):
        pefttools.evaluate(tmp_path / "a", str(tmp_path / "rows.jsonl"))
    own = pefttools.predict(tmp_path / "a", [{"text": "one two", "pair": PASSAGES[0]}])  # passages of one's own
    assert "sources" not in own[0]


def test_in_the_place_of_the_text_itself_it_can_not_be_forgotten(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path
) -> None:
    """Where passages come before the text, rows without them look complete."""
    into = {"index": str(knowledge.folder), "into": "text"}
    pefttools.train(_recipe(knowledge, tiny_bert, tmp_path, knowledge=into))
    with pytest.raises(ConfigError, match="no index is given"):
        pefttools.predict(tmp_path / "a", ["one two"])
    assert len(pefttools.predict(tmp_path / "a", ["one two"], knowledge=knowledge)[0]["sources"]) == 3


def test_a_language_model_reads_them_in_its_prompt(knowledge: KnowledgeIndex, tiny_llama: str, tmp_path: Path) -> None:
    rows = [{"prompt": PASSAGES[n % 9], "completion": "yes"} for n in range(12)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = _recipe(knowledge, tiny_llama, tmp_path, task="causal-lm", data={"train": str(path), "validation": 0.25})
    prepared = prepare(validate(Recipe, recipe, "recipe"))
    assert prepared.splits.given is not None
    (hits,) = knowledge.search([prepared.splits.given.train.rows[0]["prompt"]], 2)
    example = prepared.examples.train[0]
    read = " ".join(prepared.examples.processor.decode(example["input_ids"], skip_special_tokens=True).split())
    assert all(hit.text in read for hit in hits)


def test_training_goes_on_only_with_passages_in_the_same_place(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path
) -> None:
    recipe = _recipe(knowledge, tiny_bert, tmp_path)
    pefttools.train(recipe)
    later = {**recipe, "from": str(tmp_path / "a"), "output": str(tmp_path / "b")}
    with pytest.raises(ConfigError, match="was trained on rows with the 2 passages nearest to 'text', as 'pair'"):
        pefttools.train({**later, "knowledge": None})
    teacher = {"name": "distillation", "teacher": str(tmp_path / "a")}
    with pytest.raises(ConfigError, match="it can't be asked about rows as they are"):
        pefttools.train({**recipe, "knowledge": None, "objective": teacher, "output": str(tmp_path / "b")})
    assert pefttools.train(later) is not None


def test_a_teacher_is_asked_about_the_rows_without_passages(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path
) -> None:
    """As it was trained; the student's rows have them."""
    recipe = _recipe(knowledge, tiny_bert, tmp_path)
    plain = pefttools.train({**recipe, "knowledge": None, "output": str(tmp_path / "teacher")})
    assert plain is not None
    teacher = {"name": "distillation", "teacher": str(tmp_path / "teacher")}
    prepared = prepare(validate(Recipe, {**recipe, "objective": teacher}, "recipe"))
    model = build_model(prepared)
    teach(prepared, model, SilentReporter())
    (objective,) = model.objectives
    assert isinstance(objective, Distillation) and prepared.splits.given is not None
    rows = [row["text"] for row in prepared.splits.given.train.rows]
    scores = [list(one["scores"].values()) for one in pefttools.predict(plain.model, rows, all_scores=True)]
    learned = objective._answers.softmax(-1)  # type: ignore[union-attr]
    torch.testing.assert_close(learned, torch.tensor(scores), atol=1e-5, rtol=0)


def test_a_row_without_a_text_is_skipped_alone(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path) -> None:
    pefttools.train(_recipe(knowledge, tiny_bert, tmp_path))
    found = pefttools.predict(tmp_path / "a", ["one two", " ", "three"], knowledge=knowledge, on_error="skip")
    assert ["error" in one for one in found] == [False, True, False]


def test_an_answer_is_looked_for_where_passages_were_found(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path
) -> None:
    """Rows without a context of their own; where the answer was not found, there is none to be learned."""
    rows = [{"question": PASSAGES[n % 9], "answer": PASSAGES[(n + n % 2) % 9].split()[0]} for n in range(18)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = _recipe(
        knowledge, tiny_bert, tmp_path, task={"name": "question-answering", "max_length": 48, "stride": 8},
        data={"train": str(path), "validation": 0.25}, knowledge={"index": str(knowledge.folder), "passages": 1},
    )  # fmt: skip
    prepared = prepare(validate(Recipe, recipe, "recipe"))
    train = prepared.splits.train
    inside = [row["answer"] in row["context"] for row in train.rows]
    assert 0 < sum(inside) < len(inside)
    assert [bool(example["span"]) for example in prepared.examples._rows] == inside
    assert all(example["answers"][0] for example in prepared.examples._rows)  # what it is judged by
    assert any("not in the context that was looked up" in note for note in prepared.notes)
    stored = pefttools.train(recipe)
    assert stored is not None
    (answer,) = pefttools.predict(stored.model, [{"question": PASSAGES[0]}], knowledge=knowledge)
    assert answer["prediction"] in PASSAGES[0]


def _spec(knowledge: KnowledgeIndex, base: str, folder: Path) -> dict[str, Any]:
    recipe = _recipe(knowledge, base, folder)
    return {name: recipe[name] for name in ("base", "task", "training")} | {
        "data": {**recipe["data"], "test": 0.3}, "baseline": "alone", "output": str(folder / "bench"), "seeds": [1],
        "methods": [{"name": "lora", "label": "alone"},
                    {"name": "lora", "label": "with passages", "knowledge": recipe["knowledge"]}],
    }  # fmt: skip


def test_a_comparison_with_and_without_is_on_the_same_rows(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path
) -> None:
    spec = validate(BenchSpec, _spec(knowledge, tiny_bert, tmp_path), "spec")
    alone, found = plan(spec)
    one, other = prepare(alone.recipe), prepare(found.recipe)
    assert one.splits.digests() == other.splits.digests()  # by which the answers are paired
    assert "pair" in other.splits.train.columns and "pair" not in one.splits.train.columns
    assert alone.hash(one.digests()) != found.hash(other.digests())


@pytest.mark.slow
def test_a_comparison_reports_both(knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path) -> None:
    outcome = bench(_spec(knowledge, tiny_bert, tmp_path))
    alone, found = outcome.records.values()
    assert alone.data == found.data and alone.recipe_hash != found.recipe_hash
    report = (tmp_path / "bench" / "report" / "report.md").read_text()
    assert "with passages" in report


def test_other_passages_are_another_training(
    knowledge: KnowledgeIndex, encoder: Path, tiny_bert: str, tmp_path: Path
) -> None:
    recipe = _recipe(knowledge, tiny_bert, tmp_path)
    other = pefttools.index([*PASSAGES, "a tenth passage"], encoder, tmp_path / "index")
    first = prepare(validate(Recipe, recipe, "recipe"))
    second = prepare(validate(Recipe, {**recipe, "knowledge": {"index": str(other.folder), "passages": 2}}, "recipe"))
    assert first.splits.digests() == second.splits.digests()
    assert first.digests() != second.digests()


def test_it_shows_how_many_rows_have_their_passages(
    knowledge: KnowledgeIndex, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steps(SilentReporter):
        seen: ClassVar[list[str]] = []

        def step(self, name: str, unit: str) -> Any:
            self.seen.append(name)
            return super().step(name, unit)

    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path / "cache"))
    pefttools.train(_recipe(knowledge, tiny_bert, tmp_path), reporter=Steps())
    assert Steps.seen.count("looking up passages") == 2  # training and validation rows
