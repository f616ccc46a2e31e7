"""Typos: deterministic, of the rows alone, in the share of words that was asked for, and of labels never."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pefttools.data import Table
from pefttools.robustness.typos import NEIGHBOURS, misspell, misspell_rows

LONG = re.compile(r"[^\W\d_]{4,}")
LETTER = re.compile(r"[^\W\d_]")
WORDS = st.lists(st.text("abcdeßтоü", min_size=1, max_size=9), max_size=30)


def table_of(rows: list[dict[str, Any]]) -> Table:
    return Table("rows.csv", rows, {name: name for name in rows[0]}, range(1, len(rows) + 1))


@given(WORDS, st.floats(0, 1), st.integers(0, 5))
def test_the_share_of_words_is_the_one_asked_for(words: list[str], share: float, seed: int) -> None:
    text = " ".join(words)
    (found,), changed, count = misspell([text], share, seed)
    before, after = text.split(), found.split()
    long = [one for one in before if LONG.search(one)]
    assert len(before) == len(after) and count == len(LONG.findall(text)) == len(long)
    differing = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(differing) == changed and abs(changed - share * count) < 1
    assert all(len(a) >= 4 and a[0] == b[0] and a[-1] == b[-1] for a, b in differing)


@settings(max_examples=50)
@given(st.text(max_size=30), st.integers(0, 3))
def test_nothing_but_letters_of_long_words_changes_and_always_in_the_same_way(text: str, seed: int) -> None:
    (found,), changed, count = misspell([text], 1.0, seed)
    assert changed == count == len(LONG.findall(text)) and (found != text) == (count > 0)
    assert LETTER.sub("", found) == LETTER.sub("", text)
    assert misspell([text], 1.0, seed) == ([found], changed, count)


def test_on_average_a_share_is_met_where_texts_are_short() -> None:
    texts = [f"where is card number {number} now" for number in range(3000)]
    found = [misspell([text], 0.1) for text in texts]
    share = sum(changed for _, changed, _ in found) / sum(words for _, _, words in found)
    assert abs(share - 0.1) < 0.01
    assert {changed for _, changed, _ in found} == {0, 1}, "rounded up and down"


def test_the_four_kinds_of_typos_occur_and_no_others() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(400):
        (found,), _, _ = misspell(["Overdraft"], 1.0, seed)
        kinds[_kind("Overdraft", found)] += 1
    assert set(kinds) == {"drop", "insert", "replace", "swap"} and min(kinds.values()) > 50


def _kind(word: str, found: str) -> str:
    inner = range(1, len(word) - 1)
    if found in {word[:at] + word[at + 1 :] for at in inner}:
        return "drop"
    if found in {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in inner[:-1]}:
        return "swap"
    if found in {word[:at] + key + word[at + 1 :] for at in inner for key in NEIGHBOURS[word[at].lower()]}:
        return "replace"
    assert found in {word[:at] + key + word[at:] for at in inner for key in NEIGHBOURS[word[at].lower()]}, found
    return "insert"


def test_neighbours_are_those_of_a_keyboard() -> None:
    assert {key: set(NEIGHBOURS[key]) for key in "agpm"} == {
        "a": set("qwsz"), "g": set("tyfhvb"), "p": set("ol"), "m": set("njk"),
    }  # fmt: skip
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def test_a_row_has_the_same_typos_whatever_its_neighbours_are_and_labels_have_none() -> None:
    rows = [
        {"text": f"please explain transfer number {number} again", "pair": None, "label": "transfer_not_received"}
        for number in range(40)
    ]
    whole = misspell_rows(table_of(rows), {"text", "pair"}, 0.5)
    assert whole.words == 200 and 80 <= whole.changed <= 120
    assert all(row["label"] == "transfer_not_received" and row["pair"] is None for row in whole.table.rows)
    assert rows[0]["text"] == "please explain transfer number 0 again", "the rows themselves stay as they are"
    backwards = misspell_rows(table_of(rows[::-1][:7]), {"text"}, 0.5)
    assert list(backwards.table.rows) == list(whole.table.rows)[::-1][:7]
    assert list(misspell_rows(table_of(rows), {"text"}, 0.5, seed=1).table.rows) != list(whole.table.rows)


def test_words_of_a_list_stay_as_many_as_their_tags() -> None:
    given_rows = [{"words": ["Angela", "lives", "in", "Berlin-Mitte"], "tags": ["PER", "O", "O", "LOC"]}]
    found = misspell_rows(table_of(given_rows), {"words"}, 1.0)
    (row,) = found.table.rows
    assert found.words == found.changed == 4 and row["tags"] == given_rows[0]["tags"]
    assert len(row["words"]) == 4 and row["words"][2] == "in" and "-" in row["words"][3]
