"""Tags of words: what stands on which token, what files may look like, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import pefttools
from pefttools.data import read_table
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import Recipe, choose_task
from pefttools.tasks import Evaluation
from pefttools.training.prepare import prepare
from tests.conftest import MINILM
from tests.pefttools.tasks.samples import SAMPLES

TASK = choose_task("token-classification")
ROLES = TASK.columns()
LABELS = ["O", "B-PER", "I-PER", "B-LOC"]


def _table(path: Path, rows: list[dict[str, Any]]) -> Any:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return read_table(str(path), ROLES, {})


def test_a_words_tag_stands_on_its_first_token(tmp_path: Path) -> None:
    from pefttools.packages import package_path

    tokenizer = AutoTokenizer.from_pretrained(package_path(MINILM))
    words, tags = ["Gutenberg", "sang", "in", "Rejkjavik", "\u200b", "!"], ["B-PER", "O", "O", "B-LOC", "O", "O"]
    table = _table(tmp_path / "rows.jsonl", [{"words": words, "tags": tags}])
    (example,) = TASK.encode(table, tokenizer, LABELS)
    tokens = tokenizer.convert_ids_to_tokens(example["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and any(token.startswith("##") for token in tokens)
    labelled = {tokens[at]: LABELS[number] for at, number in enumerate(example["labels"]) if number != -100}
    assert labelled == {"gut": "B-PER", "sang": "O", "in": "O", "re": "B-LOC", "!": "O"}
    assert example["starts"][4] == -1, "a word of which the tokenizer makes nothing has no place"
    assert [LABELS[number] for number in example["reference"]] == tags


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_llama", "tiny_gpt2"])
def test_every_word_has_a_token_with_every_tokenizer(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    words = ["one", "two", "three", "apples"]
    table = _table(tmp_path / "rows.jsonl", [{"words": words, "tags": ["O"] * 4}, {"words": " ".join(words),
                                                                                    "tags": "O O O O"}])  # fmt: skip
    listed, written = TASK.encode(table, tokenizer, LABELS)
    assert listed["starts"] == written["starts"] == sorted(set(listed["starts"])) and min(listed["starts"]) >= 0


def test_words_behind_the_longest_input_count_as_missed(tiny_bert: str, tmp_path: Path) -> None:
    task = {"name": "token-classification", "max_length": 8}
    model = pefttools.wrap(tiny_bert, "lora", task=task, labels=LABELS)
    rows = [{"words": ["one"] * 20, "tags": ["O"] * 19 + ["B-PER"]}]
    table = _table(tmp_path / "rows.jsonl", rows)
    (example,) = model.spec.task.encode(table, model.tokenizer, LABELS)
    assert len(example["input_ids"]) == 8 and example["length"] > 8
    assert model.tokenizer.convert_ids_to_tokens(example["input_ids"])[-1] == "[SEP]", "the end stays"
    found = pefttools.evaluate(model, table)
    assert len(found.answers()[0]) == 20 and found.answers()[0][-1] == "O"
    assert found.metrics["entity_recall"] == 0.0


def test_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n# a comment\nPeter NNP B-NP B-PER\n"
    )
    table = read_table(str(path), ROLES, {})
    assert table.rows[0] == {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]} and len(table) == 2
    parts = read_table(str(path), ROLES, {"tags": "column_2"})
    assert parts.rows[1]["tags"] == ["NNP"]
    path.write_text("EU NNP B-ORG\nrejects O\n")
    with pytest.raises(DataError, match=r"train\.conll, sentence 1 \(line 2\): 2 columns, but 3"):
        read_table(str(path), ROLES, {})
    path.write_text("EU\n")
    with pytest.raises(DataError, match="expected a word and its tag"):
        read_table(str(path), ROLES, {})


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "tags", "1 tags for 2 words"),
        ({"words": ["a"], "tags": ["B-ORG"]}, "tags", "the tag 'B-ORG' of word 1 does not occur in the training rows"),
        ({"words": ["a"], "tags": [None]}, "tags", "tag 1 of 1 is empty"),
        ({"words": ["a"], "tags": 7}, "tags", "expected a list, or a text separated by spaces, got 7"),
        ({"words": [], "tags": []}, "words", "the sentence is empty"),
        ({"words": ["a", " "], "tags": ["O", "O"]}, "words", "word 2 of 2: expected text"),
        ({"words": None, "tags": []}, "words", "expected a list, or a text"),
        ({"words": ["a", "\ud83d"], "tags": ["O", "O"]}, "words", "it contains half of a character"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], column: str, problem: str, tmp_path: Path) -> None:
    table = _table(tmp_path / "rows.jsonl", [{"words": ["a"], "tags": ["O"]}, row])
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 2, column '{column}': {problem}"):
        TASK.check(table, LABELS)


def test_word_classes_are_not_scored_as_entities(tmp_path: Path) -> None:
    table = _table(tmp_path / "rows.jsonl", [{"words": ["a", "b"], "tags": ["DET", "NOUN"]}])
    with pytest.raises(ConfigError, match="'DET' is not a tag of entities") as caught:
        TASK.labels(table)
    assert "task.tags=words" in (caught.value.hint or "")
    words = choose_task({"name": "token-classification", "tags": "words"})
    assert words.labels(table) == ["DET", "NOUN"] and words.metrics[0].name == "accuracy"


def test_a_large_table_is_encoded_in_files_as_in_memory(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pefttools.training.examples as examples

    _, rows = SAMPLES["token-classification"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    recipe = Recipe.model_validate(
        {"base": tiny_bert, "method": "lora", "task": "token-classification", "data": {"train": str(path)}}
    )
    wanted = list(prepare(recipe).examples.train)
    monkeypatch.setattr(examples, "SMALL", 5)
    assert [dict(one) for one in prepare(recipe).examples.train] == wanted


def test_virtual_tokens_move_no_tag(tiny_bert: str, tmp_path: Path) -> None:
    """Methods that put tokens before a sentence give states for them, which no word's tag may be read from."""
    _, rows = SAMPLES["token-classification"]
    for method in ({"name": "prompt", "length": 4}, {"name": "prefix", "length": 4}):
        for head in ("tokens", "model"):
            model = pefttools.wrap(tiny_bert, method, task={"name": "token-classification", "head": head},
                                   labels=LABELS)  # fmt: skip
            table = _table(tmp_path / "rows.jsonl", rows[:5])
            examples = model.spec.task.encode(table, model.tokenizer, LABELS)
            together = model.run(examples)
            assert together.shape[:2] == (5, max(len(one["input_ids"]) for one in examples))
            alone = model.run(examples[:1])
            torch.testing.assert_close(together[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)


def test_what_ignores_the_sentence_has_a_loss_of_its_own() -> None:
    """Else no model would be better than it by its loss."""
    task = choose_task("token-classification")
    references = [["O", "O", "B-PER"], ["O"]]
    found = task.uninformed(references, ["B-PER", "O"])
    assert found is not None
    bar = Evaluation.of(task.metrics, found, references).metrics
    assert bar["loss"] == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)
    assert bar["accuracy"] == 3 / 4
