"""`predict` and `evaluate`: rows that are no good, parts that a model was not trained on, and what is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.progress import SilentReporter
from pefttools.tasks.cuts import Cuts

TASK = {"name": "sequence-classification", "head": "mean", "max_length": 16}
LABELS = ["no", "perhaps", "yes"]


class Events(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def artifact(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of single texts."""
    return _artifact(tiny_bert, tmp_path_factory.mktemp("single"), {"text": "sentence", "label": "label"})


@pytest.fixture(scope="module")
def pairs(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pairs of texts."""
    columns = {"text": "sentence", "pair": "other", "label": "label"}
    return _artifact(tiny_bert, tmp_path_factory.mktemp("pairs"), columns)


def _artifact(base: str, folder: Path, columns: dict[str, str]) -> Path:
    from pefttools.artifact import save_artifact

    model = pefttools.wrap(base, {"name": "lora", "r": 2}, task=TASK, labels=LABELS, precision="float32")
    save_artifact(model, folder / "artifact", columns=columns)
    return folder / "artifact"


def test_a_bad_row_is_skipped_and_the_others_are_as_they_would_be_alone(artifact: Path) -> None:
    rows: list[Any] = ["where is my card", "", "what is the rate", {"text": None}, {"txt": "misspelt"}, "x " * 99]
    with pytest.raises(DataError, match=r"the inputs, row 2, column 'text': expected text, got ''"):
        pefttools.predict(artifact, rows)
    events = Events()
    found = pefttools.predict(artifact, rows, on_error="skip", reporter=events)
    assert [sorted(one) for one in found] == [
        ["prediction", "score"], ["error"], ["prediction", "score"], ["error"], ["error"],
        ["cut_from", "prediction", "score"],
    ]  # fmt: skip
    assert "row 4" in found[3]["error"] and "row 5" in found[4]["error"]
    for index in (0, 2):
        (alone,) = pefttools.predict(artifact, [rows[index]])
        assert alone["prediction"] == found[index]["prediction"]
        assert alone["score"] == pytest.approx(found[index]["score"], abs=1e-5)
    assert found[5]["cut_from"] == 101
    assert events.texts == [
        "3 of 6 rows could not be predicted: see their errors",
        "the inputs: 1 of 3 rows (33.3%) are longer than task.max_length=16 tokens and were cut; the longest has 101",
    ]
    assert pefttools.predict(artifact, ["", " "], on_error="skip") == [
        {"error": f"the inputs, row {row}, column 'text': expected text, got {text!r}\nFill it or drop the row."}
        for row, text in ((1, ""), (2, " "))
    ]
    assert pefttools.predict(artifact, []) == []


def test_chats_that_can_not_be_written_are_skipped_too(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task={"name": "causal-lm", "max_new_tokens": 2})
    model.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    tool = [{"role": "tool", "content": "noon"}]
    found = pefttools.predict(model, ["good day", {"messages": tool}, "bye"], on_error="skip")
    assert "row 2, column 'messages': the tokenizer's chat template refuses this chat: no tools" in found[1]["error"]
    assert found[0] == pefttools.predict(model, ["good day"])[0]


def test_parts_that_the_model_was_not_trained_on(artifact: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the input has no 'pair', but the model was trained with it"):
        pefttools.predict(pairs, ["one text"])
    with pytest.raises(DataError, match="the input also has 'pair', but the model was trained without it"):
        pefttools.predict(artifact, [{"text": "one", "pair": "two"}])
    with pytest.raises(DataError, match=r"row 2, column 'pair': expected text"):
        pefttools.predict(pairs, [{"text": "one", "pair": "two"}, {"text": "three"}])
    assert len(pefttools.predict(pairs, [{"text": "one", "pair": "two"}])) == 1
    file = tmp_path / "single.csv"
    file.write_text("sentence,label\none,no\n")
    with pytest.raises(DataError, match="the input has no 'pair'"):
        pefttools.evaluate(pairs, str(file))
    pool = pefttools.AdapterPool(_base(pairs))
    pool.load("pairs", pairs)
    with pytest.raises(DataError, match="the input has no 'pair'"):
        pool(["one text"], ["pairs"])
    assert len(pool(dict(pool.tokenizer(["one"], ["two"], return_tensors="pt")), ["pairs"])) == 1
    # a model that remembers nothing of its data, as one made by `wrap`, takes both
    assert len(pefttools.predict(pefttools.wrap(_base(pairs), "lora", task=TASK, labels=LABELS), ["one text"])) == 1


def _base(artifact: Path) -> str:
    return pefttools.inspect(artifact).base.id


def test_an_artifact_remembers_the_columns_of_its_data(artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    file.write_text("key,sentence,label\na7,where is my card,no\nb8,what is the rate,yes\n")
    assert pefttools.evaluate(artifact, str(file)).metrics["accuracy"] in (0.0, 0.5, 1.0)
    found = pefttools.predict(artifact, data=str(file), id_column="key", all_scores=True)
    assert [one["id"] for one in found] == ["a7", "b8"]
    for one in found:
        assert list(one["scores"]) == LABELS
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert one["scores"][one["prediction"]] == one["score"] == max(one["scores"].values())
    assert pefttools.predict(artifact, [{"id": 7, "text": "a"}])[0]["id"] == 7
    odd = tmp_path / "odd.csv"
    odd.write_text(file.read_text().replace(",", "~"))
    assert pefttools.predict(artifact, data=str(odd), delimiter="~", id_column="key", all_scores=True) == found
    assert (
        pefttools.evaluate(artifact, str(odd), delimiter="~").metrics == pefttools.evaluate(artifact, str(file)).metrics
    )
    # and keeps remembering where it is saved anew
    pefttools.save(pefttools.load(artifact), tmp_path / "again")
    assert pefttools.inspect(tmp_path / "again").task.columns == {"text": "sentence", "label": "label"}


def test_scores_of_a_task_without_labels(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="the task 'causal-lm' has no labels to score"):
        pefttools.predict(pefttools.wrap(tiny_llama, "lora", task="causal-lm"), ["a"], all_scores=True)


def test_the_command(artifact: Path, tmp_path: Path) -> None:
    def run(*arguments: str, given: str = "") -> list[dict[str, Any]]:
        done = CliRunner().invoke(build_app(), ["predict", str(artifact), *arguments], input=given)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    piped = run("--text", "-", "--scores", given="where is my card\nwhat is the rate\n")
    assert len(piped) == 2 and all(list(one["scores"]) == LABELS for one in piped)
    file = tmp_path / "test.csv"
    file.write_text('key,sentence\na7,where is my card\nb8,""\n')
    assert run("--data", str(file), "--id", "key", "--on-error", "skip", "--output", str(tmp_path / "out.jsonl")) == []
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["id"] for one in lines] == ["a7", "b8"]
    assert lines[0]["prediction"] == piped[0]["prediction"] and "row 2, column 'sentence'" in lines[1]["error"]


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_half_a_character_is_refused_with_its_row(kind: str, artifact: Path, tmp_path: Path) -> None:
    half = "b \ud800"
    with pytest.raises(DataError, match="the inputs, row 2, column 'text': it contains half of a character"):
        pefttools.predict(artifact, ["a", half])
    rows = [{"id": 1, "sentence": "a \U0001f600", "label": "no"}, {"id": "\udfff", "sentence": half, "label": "yes"}]
    file = tmp_path / f"rows.{kind}"
    file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=f"rows.{kind}, row 2, column 'sentence': it contains half of a character"):
        pefttools.evaluate(artifact, str(file))
    output = tmp_path / "out.jsonl"
    command = ["predict", str(artifact), "--data", str(file), "--id", "id", "--on-error", "skip"]
    assert CliRunner().invoke(build_app(), [*command, "--output", str(output)]).exit_code == 0
    good, bad = (json.loads(line) for line in output.read_text().splitlines())
    assert good["prediction"] in LABELS and bad["id"] == "\udfff" and "half of a character" in bad["error"]
    rows[1] |= {"sentence": "b", "label": half}
    file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=f"rows.{kind}, row 2, column 'label': it contains half of a character"):
        pefttools.evaluate(artifact, str(file))


def test_half_a_character_in_a_chat(tiny_llama: str) -> None:
    model = pefttools.wrap(tiny_llama, "lora", task={"name": "causal-lm", "max_new_tokens": 2})
    for row in ("a \ud800", {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]}):
        with pytest.raises(DataError, match=r"the inputs, row 1, column '(prompt|messages)': it contains half"):
            pefttools.predict(model, [row])


def test_lines_end_at_newlines_alone(artifact: Path) -> None:
    given = "one\u2028text\u0085of one\x0bline\nanother\r\n"
    done = CliRunner().invoke(build_app(), ["predict", str(artifact), "--text", "-"], input=given)
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2


def test_ids_that_json_has_no_kind_for(artifact: Path, tmp_path: Path) -> None:
    import datetime

    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "dated.parquet"
    days = [datetime.date(2026, 1, 5), datetime.date(2026, 2, 6)]
    columns = {"id": days, "sentence": ["where is my card", "what is the rate"], "label": ["no", "yes"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    for command, *options in (
        ["predict", "--id", "id", "--output", str(tmp_path / "out.jsonl")],
        ["evaluate", "--predictions", str(tmp_path / "out.jsonl")],
    ):
        done = CliRunner().invoke(build_app(), [command, str(artifact), "--data", str(file), *options])
        assert done.exit_code == 0, done.output
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(lines) == 2
        if command == "predict":
            assert [one["id"] for one in lines] == ["2026-01-05", "2026-02-06"]


def test_cuts_are_counted(tiny_bert: str) -> None:
    from pefttools.tasks.cuts import cuts_of

    model = pefttools.wrap(tiny_bert, "lora", task=TASK, labels=LABELS)
    task = model.spec.task
    rows = [{"text": "card " * size, "label": "no"} for size in (3, 14, 15, 40)]
    table = Table("t", rows, {"text": "text", "label": "label"}, range(1, 5))
    # two tokens more than words: [CLS] and [SEP]
    assert cuts_of(task.encode(table, model.tokenizer, LABELS), task) == Cuts(4, 2, 42, 16)
    pair = [{"text": "card " * 10, "pair": "rate " * 10}]
    table = Table("t", pair, {"text": "text", "pair": "pair"}, [1])
    assert cuts_of(task.encode(table, model.tokenizer, LABELS, labelled=False), task) == Cuts(1, 1, 23, 16)
