"""An index of passages: what is found in it, what is kept of it, and how it is refused."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("name", ["passages.jsonl", "vectors.safetensors"])
def test_a_changed_file_is_refused(name: str, encoder: Path, tmp_path: Path) -> None:
    pefttools.index(PASSAGES, encoder, tmp_path / "index")
    raw = bytearray((tmp_path / "index" / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "index" / name).write_bytes(raw)
    with pytest.raises(ArtifactError, match=f"{name} is missing or was changed"):
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
    made = Placement(query="text", into="pair", passages=3, replace=replace).add(table, [found] * len(rows))
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
    placement = KnowledgeConfig(index=Path("x"), query="messages").placement(tasks.get("causal-lm").roles)
    table = Table("rows", [{"messages": chat}], {"messages": "messages"}, [1])
    assert placement.queries(table) == ["second"]
    said = [one["content"] for one in placement.add(table, [["known"]]).rows[0]["messages"]]
    assert said == ["first", "yes", "known\n\nsecond"]


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("sequence-classification", {}, ("text", "pair")),
        ("sequence-classification", {"into": "text"}, ("text", "text")),
        ("question-answering", {}, ("question", "context")),
        ("masked-lm", {}, ("text", "text")),
        ("token-classification", {}, "the task reads no text that passages could be added to"),
        ("sequence-classification", {"into": "label"}, "knowledge.into: the task reads no text with the role 'label'"),
        ("masked-lm", {"replace": True}, "the passages would take the place of the query"),
    ],
)
def test_where_they_go(task: str, options: dict[str, Any], expected: tuple[str, str] | str) -> None:
    config = KnowledgeConfig(index=Path("x"), **options)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            config.placement(tasks.get(task).roles)
        return
    placement = config.placement(tasks.get(task).roles)
    assert (placement.query, placement.into) == expected
