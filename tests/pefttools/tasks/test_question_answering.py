"""Question answering: what is read, learned, told and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import pefttools
from pefttools.data import Table
from pefttools.data.mapped import MappedItems
from pefttools.errors import BaseModelError, ConfigError, DataError
from pefttools.packages import package_path
from pefttools.progress import SilentReporter
from pefttools.recipe import choose_task
from pefttools.tasks.text.answers import Candidate, SpanPrediction
from pefttools.tasks.text.question_answering import QuestionAnswering
from pefttools.training.store import Stored
from tests.conftest import MINILM
from tests.pefttools.tasks.samples import SAMPLES

NAME = "question-answering"
OPTIONS, ROWS = SAMPLES[NAME]
CONTEXT = "Ann lives in Oslo, and Ben lives in Oslo too."


def _table(row: dict[str, Any]) -> Table:
    return Table("qa.jsonl", [row], {name: name for name in row}, [1])


def _task(**options: Any) -> QuestionAnswering:
    found = choose_task({"name": NAME, **options})
    assert isinstance(found, QuestionAnswering)
    return found


def _recipe(base: str, data: Path, output: Path, **task: Any) -> dict[str, Any]:
    return {
        "base": base, "method": "lora", "task": {"name": NAME, **OPTIONS, **task},
        "data": {"train": str(data), "validation": 0.34}, "output": str(output),
        "training": {"max_steps": 4, "batch_size": 8, "precision": "float32"},
    }  # fmt: skip


def _written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {"answers": {"text": ["Oslo"], "answer_start": [12]}},
            r"'answers': the answer 'Oslo' is not at .* 12",
        ),
        ({"answers": {"text": ["Oslo"], "answer_start": [-1]}}, "is not at character -1"),
        ({"answers": {"text": ["Oslo"]}}, "expected texts and their places"),
        ({"answers": "Oslo"}, "expected texts and their places, got 'Oslo'"),
        ({"answers": ["Oslo"]}, "expected texts and their places"),
        ({"answers": {"text": [" "], "answer_start": [3]}}, "expected texts and their places"),
        ({"answers": {"text": ["Oslo"], "answer_start": ["13"]}}, "expected texts and their places"),
        ({"answer": "Bergen"}, "column 'answer': 'Bergen' does not occur in the context"),
        ({"answer": 3}, "expected text, got 3"),
        ({"answer": "Oslo", "answers": {"text": [], "answer_start": []}}, "both 'answers' and 'answer'"),
        ({}, "no column for answers or answer"),
        ({"answer": "Oslo", "context": " "}, "column 'context': expected text"),
        ({"answer": "Oslo", "question": None}, "column 'question': expected text"),
    ],
)
def test_what_is_no_answer_is_refused_by_its_place(cells: dict[str, Any], said: str) -> None:
    row = {"question": "who?", "context": CONTEXT, **cells}
    with pytest.raises(DataError, match=f"qa.jsonl, row 1, .*{said}"):
        _task().check(_table(row), ())


@pytest.mark.parametrize(
    ("cells", "answers", "span"),
    [
        ({"answers": {"text": ["Oslo", "in Oslo"], "answer_start": [13, 10]}}, ["Oslo", "in Oslo"], "Oslo"),
        ({"answers": [{"text": "Ben", "answer_start": 23}]}, ["Ben"], "Ben"),
        ({"answers": []}, [""], None),
        ({"answers": {"text": [], "answer_start": []}}, [""], None),
        ({"answer": "Oslo"}, ["Oslo"], "Oslo"),
        ({"answer": ""}, [""], None),
    ],
)
def test_every_form_of_answers_is_read(cells: dict[str, Any], answers: list[str], span: str | None) -> None:
    task, tokenizer = _task(), AutoTokenizer.from_pretrained(package_path(MINILM))
    table = _table({"question": "where?", "context": CONTEXT, **cells})
    task.check(table, ())
    (example,) = task.encode(table, tokenizer, ())
    assert task.reference(example, ()) == answers
    assert bool(example["span"]) == (span is not None)
    if span is not None:
        found = example["starts"][example["span"][0]], example["ends"][example["span"][1]]
        assert CONTEXT[slice(*found)] == span and found[0] == CONTEXT.index(span)
    (window,) = task.parts(example)
    assert (window["labels"] == [0, 0]) == (span is None), "no answer stands on [CLS]"


def test_what_is_odd_about_answers_is_told() -> None:
    rows = [{"question": "?", "context": CONTEXT, "answer": cell} for cell in ("Oslo", "Ben", None)]
    table = Table("qa", rows, {name: name for name in rows[0]}, [1, 2, 3])
    assert _task().data_notes({"train": table}, ()) == [
        "train: 1 of 3 questions have no answer",
        "train: 1 answers occur several times in their context: the first is taken",
    ]
    tokenizer = AutoTokenizer.from_pretrained(package_path(MINILM))
    long = {"question": "?", "context": f"{'one ' * 60}cats", "answer": f"{'one ' * 40}cat"}
    task = _task(max_length=24, stride=4, max_answer_length=30)
    windows, *notes = task.example_notes(task.encode(_table(long), tokenizer, ()))
    assert windows.startswith("1 rows gave 4 windows of up to 24 tokens, 4 of them without the answer; 1 contexts took")
    assert [note.split(":")[0].split(" more than")[0] for note in notes] == [
        "1 answers are too long for a window",
        "1 first answers have",
        "1 first answers begin or end inside a token",
    ]


def test_a_question_that_leaves_no_room_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(package_path(MINILM))
    table = _table({"question": "why " * 30, "context": CONTEXT})
    with pytest.raises(DataError, match="row 1, column 'question': its 33 tokens leave room for 7 of the context"):
        _task(max_length=40, stride=8).encode(table, tokenizer, (), labelled=False)
    with pytest.raises(ConfigError, match="stride=40 must be less than max_length=40"):
        _task(max_length=40, stride=40)


@pytest.fixture(scope="module")
def trained(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stored, Path, list[str]]:
    """A model, its artifact, and what was said while it was trained."""
    lines: list[str] = []

    class Reporter(SilentReporter):
        def event(self, text: str) -> None:
            lines.append(text)

    folder = tmp_path_factory.mktemp("questions")
    stored = pefttools.train(_recipe(tiny_bert, _written(folder, ROWS), folder / "out"), reporter=Reporter())
    assert stored is not None
    return stored, folder / "out", lines


def test_windows_are_what_is_trained_and_counted(trained: tuple[Stored, Path, list[str]]) -> None:
    stored, _, lines = trained
    (told,) = [line for line in lines if line.startswith("train: 16 rows gave")]
    assert told in stored.manifest.training["notes"]
    task = stored.model.spec.task
    examples = task.encode(Table("r", ROWS, {n: n for n in ROWS[0]}, range(1, 25)), stored.model.processor, ())
    windows = task.training_set(examples)
    assert len(windows) > 24 and task.tokens(windows) == sum(len(one["input_ids"]) for one in windows)
    with pytest.raises(ConfigError, match="makes batches of windows"):
        stored.model.run(examples)


def test_masked_places_have_no_part_in_the_loss(tiny_bert: str) -> None:
    """Neither padding nor the question; against transformers' own loss of a window that is all context."""
    model = pefttools.wrap(tiny_bert, "lora", task={"name": NAME, "head": "model"}, precision="float32")
    ids = torch.randint(1000, 2000, (2, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.tensor([[2, 4], [0, 0]])
    with model.inference_mode():
        every = model(**batch, span_mask=torch.ones_like(ids, dtype=torch.bool), targets=labels)
        logits = model(**batch)
        own = [torch.nn.functional.cross_entropy(logits[..., side], labels[:, side]) for side in (0, 1)]
        assert float(every) == pytest.approx(float(sum(own) / 2), rel=1e-6)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, [0, 2, 4]] = True
        some = model(**batch, span_mask=mask, targets=labels)
        wanted = torch.stack([logits[:, [0, 2, 4], side] for side in (0, 1)]).flatten(0, 1)
        right = torch.tensor([1, 0, 2, 0])
        assert float(some) == pytest.approx(float(torch.nn.functional.cross_entropy(wanted, right)), rel=1e-6)


def test_a_threshold_is_chosen_kept_and_gone_by(trained: tuple[Stored, Path, list[str]]) -> None:
    stored, artifact, _ = trained
    limit = pefttools.load(artifact).spec.task.calibration
    assert limit is not None and set(limit) == {"threshold"}
    task = stored.model.spec.task
    found = [SpanPrediction("", [Candidate("Oslo", 13, 17, 0.5)], margin=limit["threshold"] + off) for off in (-1, 1)]
    assert [one.answer for one in task.finish(found)] == ["Oslo", ""]
    given = _task(threshold=0.25)
    assert given.calibrate(found, [[""], ["Oslo"]]) is None, "a threshold that is given is gone by"
    assert [one.answer for one in given.finish([SpanPrediction("", found[0].candidates, margin=0.3)])] == [""]
    assert _task().calibrate(found, [["Oslo"], ["Oslo"]]) is None, "where every question has an answer, all get one"
    assert _task().finish(found)[1].answer == "Oslo"
    assert _task().uninformed([["Oslo"]], ()) is None
    assert [one.answer for one in _task().uninformed([["Oslo"], [""]], ()) or ()] == ["", ""]


def test_answers_are_pieces_of_the_context_with_their_places(trained: tuple[Stored, Path, list[str]]) -> None:
    _, artifact, _ = trained
    asked = [{"question": row["question"], "context": row["context"]} for row in ROWS]
    for row, found in zip(asked, pefttools.predict(artifact, asked, all_scores=True), strict=True):
        best = found["candidates"][0]
        assert found["prediction"] in ("", best["prediction"])
        assert found["score"] == (best["score"] if found["prediction"] else found["no_answer"])
        assert all(one["prediction"] == row["context"][one["start"] : one["end"]] for one in found["candidates"])
        shares = [one["score"] for one in found["candidates"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) + found["no_answer"] == pytest.approx(1, abs=1e-6)
    with pytest.raises(DataError, match="has no 'context', but the model was trained with it"):
        pefttools.predict(artifact, ["who?"])
    assert '{"question": "...", "context": "..."}' in (artifact / "README.md").read_text()
    some = pefttools.predict(artifact, [asked[0], {"question": "who?", "context": ""}], on_error="skip")
    assert "prediction" in some[0] and "column 'context'" in some[1]["error"]


def test_rows_in_files_are_the_same(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Examples of large tables stand in mapped files, and their windows are made when they are asked for."""
    data = _written(tmp_path, ROWS)
    few = pefttools.train(_recipe(tiny_bert, data, tmp_path / "few"))
    for place in ("data.mapped", "data.table", "training.examples"):
        monkeypatch.setattr(f"pefttools.{place}.SMALL", 5)
    seen: list[Any] = []
    monkeypatch.setattr(MappedItems, "__getitem__", _noted(seen, MappedItems.__getitem__))
    many = pefttools.train(_recipe(tiny_bert, data, tmp_path / "many"))
    assert few is not None and many is not None and seen
    assert few.validation.metrics == many.validation.metrics
    assert few.manifest.training["notes"] == many.manifest.training["notes"]


def _noted(seen: list[Any], wrapped: Any) -> Any:
    def noted(self: Any, index: Any) -> Any:
        seen.append(index)
        return wrapped(self, index)

    return noted


def test_on_a_decoder_no_answer_stands_at_the_end(tiny_llama: str, tiny_gpt2: str, tmp_path: Path) -> None:
    data = _written(tmp_path, ROWS)
    stored = pefttools.train(_recipe(tiny_llama, data, tmp_path / "out"))
    assert stored is not None and 0 <= stored.validation.metrics["f1"] <= 1
    own = pefttools.train(_recipe(tiny_gpt2, data, tmp_path / "own", head="model"))
    assert own is not None and own.model.spec.target.head_modules == ("qa_outputs",)
    with pytest.raises(ConfigError, match="can't be merged: nothing in transformers reads long contexts in windows"):
        pefttools.merge(tmp_path / "own", tmp_path / "merged")
    # transformers' class looks for the backbone under another name than the base's files have: all would be chance.
    with pytest.raises(BaseModelError, match=r"LlamaForQuestionAnswering finds: it looks for transformer\."):
        pefttools.wrap(tiny_llama, "lora", task={"name": NAME, "head": "model"})


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_methods_that_drop_token_types_are_refused(method: str, tiny_bert: str, tmp_path: Path) -> None:
    recipe = {**_recipe(tiny_bert, _written(tmp_path, ROWS), tmp_path / "out"), "method": method}
    with pytest.raises(ConfigError, match="drops token types"):
        pefttools.train(recipe)
