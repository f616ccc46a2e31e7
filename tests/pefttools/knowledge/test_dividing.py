"""Long passages in parts."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import pefttools
from pefttools.errors import ConfigError, DataError
from pefttools.knowledge.dividing import divided
from pefttools.packages import package_path
from tests.conftest import MINILM


@functools.cache
def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(package_path(MINILM))


def _without_space(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(st.text("ab ,.!?\n中é😀", max_size=300), st.integers(16, 40))
@settings(deadline=None, max_examples=100)
def test_nothing_but_space_is_lost_and_no_part_is_too_long(text: str, tokens: int) -> None:
    parts = divided(text, _tokenizer(), tokens)
    assert _without_space("".join(parts)) == _without_space(text)
    for part in parts:
        # A word that is longer than a part is cut, and may then be other tokens.
        words = max([0, *(len(_tokenizer().tokenize(word)) for word in part.split())])
        assert len(_tokenizer()(part)["input_ids"]) <= max(tokens, words + 2)


def test_parts_end_where_sentences_do() -> None:
    text = " ".join(f"This is the sentence number {number}, and it ends here." for number in range(12))
    parts = divided(text, _tokenizer(), 32)
    assert len(parts) > 3 and " ".join(parts) == text
    assert all(part.endswith("ends here.") for part in parts)
    assert all(len(_tokenizer()(part)["input_ids"]) <= 32 for part in parts)
    assert divided("short", _tokenizer(), 32) == ["short"]


def test_the_end_of_a_long_passage_is_found(encoder: Path, tmp_path: Path) -> None:
    long = " ".join([f"one two three, {number}." for number in range(20)] + ["apples pears plums."] * 4)
    index = pefttools.index([long, "seven eight"], encoder, tmp_path / "index", divide=24)
    names = [one["id"] for one in index.passages]
    assert names[0] == "1/1" and names[-1] == "2" and len(names) > 4
    (hits,) = index.search(["apples pears plums. apples pears plums."], 1)
    assert "apples" in hits[0].text and hits[0].id.startswith("1/")


def test_equal_parts_are_kept_once(encoder: Path, tmp_path: Path) -> None:
    rows = [f"{word} two three four five six. " * 4 + "All rights are reserved by us." for word in ("one", "apples")]
    index = pefttools.index(rows, encoder, tmp_path / "index", divide=16)
    texts = [one["text"] for one in index.passages]
    assert len(texts) == len(set(texts)) and texts.count("All rights are reserved by us.") == 1


def test_parts_that_can_not_be_named_or_are_too_small_are_refused(encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "one two three. " * 20, "id": "7"}, {"text": "four five", "id": "7/1"}]
    with pytest.raises(DataError, match="a part of a passage would be called '7/1'"):
        pefttools.index(rows, encoder, tmp_path / "index", id_field="id", divide=24)
    with pytest.raises(ConfigError, match="must have 16 tokens or more"):
        pefttools.index(rows, encoder, tmp_path / "index", id_field="id", divide=8)
    assert not (tmp_path / "index").exists()
