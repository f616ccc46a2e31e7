"""An index of passages: what is found in it, what is kept of it, and how it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pefttools
from pefttools.data import Table
from pefttools.errors import ArtifactError, ConfigError, DataError
from pefttools.knowledge import KnowledgeIndex, open_index
from pefttools.tasks import tasks
from pefttools.tasks.passages import KnowledgeConfig, Placement

from .makers import PASSAGES


def test_the_nearest_are_those_of_the_cosine(knowledge: KnowledgeIndex) -> None:
    """Against numbers computed apart from the index, by the encoder's own predictions."""
    queries = ["seven apples", "one two three four"]
    every = [one["text"] for one in knowledge.passages]
    vectors = torch.tensor([row["prediction"] for row in pefttools.predict(knowledge.encoder, every)])
    asked = torch.tensor([row["prediction"] for row in pefttools.predict(knowledge.encoder, queries)])
    cosines = torch.nn.functional.cosine_similarity(asked[:, None], vectors[None], dim=-1)
    for hits, row in zip(knowledge.search(queries, 3), cosines, strict=True):
        best = row.topk(3)
        assert [hit.text for hit in hits] == [every[place] for place in best.indices]
        assert [hit.score for hit in hits] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_a_passage_finds_itself_first(knowledge: KnowledgeIndex) -> None:
    texts = [one["text"] for one in knowledge.passages]
    assert [hits[0].text for hits in knowledge.search(texts, 1)] == texts
    assert len(knowledge.search(texts[:1], 100)[0]) == len(texts)  # no more than there are
    assert knowledge.search(["", texts[0]], 2)[0] == []


def test_equal_passages_are_kept_once_and_names_are_ones_own(encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "one two", "page": "a"}, {"text": "three", "page": "b"}, {"text": "one two", "page": "c"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = pefttools.index(str(path), encoder, tmp_path / "index", id_field="page")
    assert found.passages == [{"id": "a", "text": "one two"}, {"id": "b", "text": "three"}]
    assert [hit.id for hit in pefttools.search(tmp_path / "index", ["three"], passages=1)[0]] == ["b"]


def test_rows_of_a_table_become_texts(encoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "goods.csv"
    path.write_text("name,price,note\npears,3,\napples,2,red\n")
    found = pefttools.index(str(path), encoder, tmp_path / "index", fields=["name", "price", "note"])
    assert [one["text"] for one in found.passages] == ["name: pears; price: 3", "name: apples; price: 2; note: red"]


@pytest.mark.parametrize(
    ("passages", "said"),
    [
        ([{"text": "one"}, {"text": " "}], "the passages, row 2: the passage has no text"),
        ([{"text": "one", "id": "x"}, {"text": "two", "id": "x"}], "row 2: another passage is called 'x' too"),
        ([], "the passages has no passages"),
    ],
)
def test_wrong_passages_are_named(passages: list[Any], said: str, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        pefttools.index(passages, encoder, tmp_path / "index", id_field="id" if "id" in str(passages) else None)
    assert not (tmp_path / "index").exists()


def test_an_encoder_gives_vectors(tiny_bert: str, tmp_path: Path) -> None:
    model = pefttools.wrap(tiny_bert, "untuned", labels=["a", "b"])
    pefttools.save(model, tmp_path / "classifier")
    with pytest.raises(ConfigError, match="an encoder of passages gives a vector for a text"):
        pefttools.index(PASSAGES, tmp_path / "classifier", tmp_path / "index")


def test_all_that_could_be_the_end_of_a_line(encoder: Path, tmp_path: Path) -> None:
    texts = [f"one{sign}two" for sign in "\n\r\u2028\u2029\x85\x0c"]
    found = pefttools.index(texts, encoder, tmp_path / "index")
    assert [one["text"] for one in open_index(tmp_path / "index").passages] == [one["text"] for one in found.passages]
    assert [one["text"] for one in found.passages] == texts


def test_another_encoder_is_refused(encoder: Path, tiny_bert: str, tmp_path: Path) -> None:
    pefttools.index(PASSAGES, encoder, tmp_path / "index")
    shutil.rmtree(tmp_path / "index" / "encoder")
    task = {"name": "sentence-embedding", "max_length": 17}
    pefttools.save(pefttools.wrap(tiny_bert, "untuned", task=task), tmp_path / "index" / "encoder")
    with pytest.raises(ArtifactError, match="encoder is another encoder than that of the index"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize("name", ["passages.jsonl", "vectors.safetensors"])
def test_a_changed_file_is_refused(name: str, encoder: Path, tmp_path: Path) -> None:
    pefttools.index(PASSAGES, encoder, tmp_path / "index")
    raw = bytearray((tmp_path / "index" / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "index" / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=f"{name} is missing or was changed"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize(("version", "said"), [("2.0", "has the schema 2.0"), ("one", "knowledge.json is damaged")])
def test_an_index_of_another_schema_is_refused(version: str, said: str, encoder: Path, tmp_path: Path) -> None:
    pefttools.index(PASSAGES[:2], encoder, tmp_path / "index")
    path = tmp_path / "index" / "knowledge.json"
    path.write_text(path.read_text().replace('"1.0"', f'"{version}"'))
    with pytest.raises(ArtifactError, match=said):
        open_index(tmp_path / "index")


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an index of passages"):
        open_index(tmp_path)


TEXTS = st.text("abc xyz", min_size=1, max_size=12)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=4),
    found=st.lists(TEXTS, min_size=1, max_size=3),
    replace=st.booleans(),
)
def test_passages_come_before_what_is_there_and_nothing_is_lost(
    rows: list[tuple[str, str | None]], found: list[str], replace: bool
) -> None:
    cells = [{"text": text, "pair": pair} for text, pair in rows]
    table = Table("rows", cells, {"text": "text", "pair": "pair"}, range(1, len(rows) + 1))
    placement = Placement(query="text", into="pair", passages=3, replace=replace)
    made = placement.add(table, [found] * len(rows))
    for row, (text, pair) in zip(made.rows, rows, strict=True):
        assert row["text"] == text
        joined = "\n".join(found)
        assert row["pair"] == (joined if replace or not pair else f"{joined}\n\n{pair}")
    assert table.rows[0]["pair"] == rows[0][1]  # the given rows are as they were
    assert made.looked_up == "pair"


def test_a_chat_gets_them_before_the_users_last_message() -> None:
    chat = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    placement = KnowledgeConfig(index=Path("x"), query="messages").placement(tasks.get("causal-lm"))
    in_parts = [
        *chat[:2],
        {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
    ]
    for one in (chat, in_parts):
        table = Table("rows", [{"messages": one}], {"messages": "messages"}, [1])
        assert placement.queries(table) == ["second"]
        said = [message["content"] for message in placement.add(table, [["known"]]).rows[0]["messages"]]
        assert said == ["first", "yes", "known\n\nsecond"]


@pytest.mark.parametrize(
    "cell",
    [None, "", " ", 3, "\ud800", [], ["words"], [{"role": "user", "content": 3}], [{"role": "system", "content": "a"}]],
)
def test_a_row_without_a_text_is_named_or_left_to_its_task(cell: Any) -> None:
    placement = Placement(query="messages", into="messages", passages=1)
    table = Table("rows.jsonl", [{"messages": cell, "prompt": "x"}], {"messages": "messages", "prompt": "prompt"}, [7])
    assert placement.queries(table) == [""]
    with pytest.raises(DataError, match=r"rows\.jsonl, row 7, column 'messages': there is no text to look passages up"):
        placement.add(table, [[]])
    assert placement.add(table, [[]], strict=False).rows == [{"messages": None, "prompt": None}]


def test_rows_without_what_is_looked_up_are_refused() -> None:
    table = Table("rows", [{"messages": []}], {"messages": "messages"}, [1])
    with pytest.raises(ConfigError, match="there is no 'prompt', which passages are looked up for"):
        Placement(query="prompt", into="prompt", passages=1).queries(table)


def test_rows_with_something_of_their_own_are_looked_up_if_those_of_the_training_were() -> None:
    placement = Placement(query="text", into="pair", passages=1)
    alone = Table("rows", [{"text": "a"}], {"text": "text"}, [1])
    own = Table("rows", [{"text": "a", "pair": "b"}], {"text": "text", "pair": "pair"}, [1])
    assert placement.trained_on(alone).is_given(own) and not placement.trained_on(alone).is_given(alone)
    assert not placement.trained_on(own).is_given(own)
    replaced = placement.model_copy(update={"replace": True})
    assert replaced.trained_on(own).is_given(own)


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("sequence-classification", {}, ("text", "pair")),
        ("sequence-classification", {"into": "text"}, ("text", "text")),
        ("question-answering", {}, ("question", "context")),
        ("masked-lm", {}, ("text", "text")),
        ("causal-lm", {}, ("prompt", "prompt")),
        ("causal-lm", {"query": "messages"}, ("messages", "messages")),
        ("causal-lm", {"into": "text"}, "the task does not read 'text' along with 'prompt'"),
        ("multiple-choice", {}, ("text", "text")),
        ("token-classification", {}, "the task reads no text that passages could be added to"),
        ("sequence-classification", {"into": "label"}, "knowledge.into: the task reads no text with the role 'label'"),
        ("masked-lm", {"replace": True}, "the passages would take the place of the query"),
    ],
)
def test_where_they_go(task: str, options: dict[str, Any], expected: tuple[str, str] | str) -> None:
    config = KnowledgeConfig(index=Path("x"), **options)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            config.placement(tasks.get(task))
        return
    placement = config.placement(tasks.get(task))
    assert (placement.query, placement.into) == expected
