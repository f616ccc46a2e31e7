"""Classification by the word that a language model puts into a pattern."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

import pefttools
from pefttools.data import Table
from pefttools.errors import BaseModelError, ConfigError, DataError, PeftToolsError
from pefttools.packages import package_path
from pefttools.tasks.text.patterns import Pattern, word_tokens
from pefttools.tuned import TunedModel

from ...conftest import MINILM, save_base

WORDS = {"good": "great", "bad": "terrible"}
LABELS = list(WORDS)
TEXTS = ["a day by the sea", "it rained", "one two three four five six seven"]


@pytest.fixture(scope="module")
def masked_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=30522
    )
    return save_base(BertForMaskedLM(config), tmp_path_factory.mktemp("masked"))


@functools.cache
def _tokenizer(*, masks: bool) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(package_path(MINILM))
    if not masks:
        tokenizer.mask_token, tokenizer.eos_token = None, "[SEP]"
    return tokenizer


def _wrapped(base: str, method: Any = "untuned", **options: Any) -> TunedModel:
    task = {"name": "prompted-classification", "words": WORDS, **options}
    return pefttools.wrap(base, method, task=task, labels=LABELS, precision="float32")


def _table(**columns: list[Any]) -> Table:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Table("rows", rows, {name: name for name in columns}, range(1, len(rows) + 1))


def _logits(model: TunedModel, texts: list[str]) -> torch.Tensor:
    examples = model.spec.task.encode(_table(text=texts), model.processor, model.labels, labelled=False)
    return model.run(examples)


def test_a_labels_logit_is_that_of_its_word_at_the_mask(masked_base: str) -> None:
    found = _logits(_wrapped(masked_base, pattern="It was {mask}: {text}"), TEXTS)
    tokenizer, plain = _tokenizer(masks=True), BertForMaskedLM.from_pretrained(masked_base).eval()
    for text, row in zip(TEXTS, found, strict=True):
        given = tokenizer(f"It was [MASK]: {text}", return_tensors="pt")
        with torch.no_grad():
            logits = plain(**given).logits[0, given["input_ids"][0] == tokenizer.mask_token_id][0]
        wanted = logits[tokenizer.convert_tokens_to_ids(["great", "terrible"])]
        torch.testing.assert_close(row, wanted, atol=1e-5, rtol=1e-5)


def test_a_labels_logit_is_that_of_its_word_after_the_last_token(tiny_llama: str) -> None:
    from transformers import AutoModelForCausalLM

    model = _wrapped(tiny_llama, pattern="{text} It was {mask}")
    found = _logits(model, TEXTS)
    tokenizer, plain = _tokenizer(masks=False), AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenizer(f"{text} It was")["input_ids"]
        ids = ids[:-1] if ids[-1] == model.processor.eos_token_id else ids
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([ids])).logits[0, -1]
        wanted = logits[tokenizer.convert_tokens_to_ids(["great", "terrible"])]
        torch.testing.assert_close(row, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_a_row_does_not_depend_on_its_neighbours(method: str, tiny_llama: str) -> None:
    model = _wrapped(tiny_llama, method)
    alone = torch.cat([_logits(model, [text]) for text in TEXTS])
    torch.testing.assert_close(_logits(model, TEXTS), alone, atol=1e-5, rtol=1e-4)


def test_a_few_rows_are_learned_and_loaded_again(tiny_llama: str, tmp_path: Path) -> None:
    train = tmp_path / "train.csv"
    rows = [f"{text} {word},{label}" for label, word in (("good", "sun"), ("bad", "rain")) for text in TEXTS]
    train.write_text("text,label\n" + "\n".join(rows) + "\n")
    artifact = str(tmp_path / "artifact")
    pefttools.train(
        {
            "base": tiny_llama, "method": "lora", "output": artifact,
            "task": {"name": "prompted-classification", "words": WORDS},
            "data": {"train": str(train), "validation": str(train)},
            "training": {"epochs": 30, "learning_rate": 1e-2, "batch_size": 6},
        }
    )  # fmt: skip
    found = pefttools.predict(artifact, ["it rained rain", "a day by the sea sun"])
    assert [one["prediction"] for one in found] == ["bad", "good"]
    with pytest.raises(ConfigError, match="the task 'prompted-classification' can't be served in a pool"):
        pefttools.AdapterPool(tiny_llama).load("one", artifact)


def test_calibration_takes_off_what_is_answered_in_any_case(tiny_llama: str) -> None:
    plain, calibrated = (_wrapped(tiny_llama, calibrate=value) for value in (False, True))
    examples = plain.spec.task.encode(_table(text=TEXTS), plain.processor, LABELS, labelled=False)
    before, after = (
        [list(one.probabilities) for one in model.spec.task.predict(model, examples, batch_size=2)]  # type: ignore[attr-defined]
        for model in (plain, calibrated)
    )
    nothing = _logits(plain, ["N/A", "nothing", "..."]).softmax(-1).mean(0)
    wanted = torch.tensor(before) / nothing
    torch.testing.assert_close(torch.tensor(after), wanted / wanted.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)
    # Training knows nothing of it.
    torch.testing.assert_close(_logits(calibrated, TEXTS), _logits(plain, TEXTS))


@given(st.text("ab ,.", max_size=80), st.text("ab ,.", max_size=80), st.integers(12, 40), st.booleans())
@settings(deadline=None, max_examples=60)
def test_texts_are_cut_and_the_pattern_is_not(text: str, pair: str, limit: int, masks: bool) -> None:
    tokenizer = _tokenizer(masks=masks)
    pattern = Pattern("so: {text}; {pair}! was {mask}", tokenizer)
    ids, whole = pattern.encode({"text": text, "pair": pair}, limit)
    assert len(ids) <= limit and (len(ids) == whole or whole > limit)
    written = tokenizer.decode(ids).replace(" ", "")
    assert "so:" in written and written.endswith("!was[MASK][SEP]" if masks else "!was")
    assert whole <= limit or len(ids) >= limit - 4, "more was cut than needed"


def test_a_limit_that_the_pattern_alone_exceeds_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"task.pattern alone has \d+ tokens, and task.max_length is 8"):
        Pattern("one two three four five six seven {text} was {mask}", _tokenizer(masks=True)).encode({"text": "a"}, 8)


def _tokens(words: dict[str, str], pattern: str = "{text} it was {mask}", *, masks: bool = True) -> list[int]:
    return word_tokens(words, LABELS, Pattern(pattern, _tokenizer(masks=masks)))


def test_words_are_tokens_of_their_own() -> None:
    ids = _tokenizer(masks=True).convert_tokens_to_ids
    assert _tokens(WORDS) == ids(["great", "terrible"])
    with pytest.raises(ConfigError, match=r"a mask stands for one token, .*'pears', is 2: 'pear', '##s'"):
        _tokens({"good": "pears"})
    with pytest.raises(ConfigError, match="'good' and 'bad' begin with the same token, 'great'"):
        _tokens({"good": "great", "bad": "great"})
    with pytest.raises(ConfigError, match="'other' is not a label"):
        _tokens({"other": "great"})
    # A model that continues texts could write the rest after it.
    assert _tokens({"good": "pears"}, masks=False) == ids(["pear", "bad"])


@pytest.mark.parametrize("word", ["", " ", "[MASK]", "[SEP]", "\U0001f600", "\u2603\ufe0f"])
def test_what_is_no_word_for_the_tokenizer_is_refused(word: str) -> None:
    for masks in (True, False) if word != "[MASK]" else (True,):
        with pytest.raises(ConfigError, match="has no token for"):
            _tokens({"good": word}, masks=masks)


def test_a_word_is_that_after_the_patterns_own_ending() -> None:
    """Of a tokenizer that keeps spaces: after a space, a line break or a quote it is another token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {one: number for number, one in enumerate(["<e>", "x", ":", "Ċ", '"', "good", "Ġgood", "bad", "Ġbad"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<e>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Split("Ċ", "isolated")]
    )
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<e>", unk_token="<e>")
    for ending, wanted in ((": ", ["Ġgood", "Ġbad"]), (":\n", ["good", "bad"])):
        pattern = Pattern(f"{{text}}{ending}{{mask}}", tokenizer)
        found = word_tokens({}, LABELS, pattern)
        assert found == [vocabulary[one] for one in wanted], ending
        ids, _ = pattern.encode({"text": "x"}, 16)
        assert ids == [vocabulary[one] for one in ("x", ":", *(["Ċ"] if "\n" in ending else []))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pattern": "{text} was good"}, "the pattern must contain"),
        ({"pattern": "it was {mask}"}, "the pattern must contain"),
        ({"pattern": "{mask} {text} {mask}"}, "the pattern must contain"),
        ({"pattern": "{text} {label} {mask}"}, "not for {label}"),
    ],
)
def test_a_pattern_needs_a_text_and_one_word(options: dict[str, Any], said: str, tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _wrapped(tiny_llama, **options)


def test_what_can_not_work_is_refused(tiny_llama: str, tiny_bert: str, tiny_t5: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks weights of a language head"):
        _wrapped(tiny_bert)
    with pytest.raises(BaseModelError, match="has an encoder and a decoder"):
        _wrapped(tiny_t5)
    train = tmp_path / "train.csv"
    train.write_text("text,label\na,good\nb,bad\n")
    data = {"train": str(train), "validation": str(train)}
    recipe: dict[str, Any] = {"base": tiny_llama, "data": data, "output": str(tmp_path / "out")}
    for method, pattern, said in (
        ("lora", "{mask}: {text}", "this base continues texts, so that {mask} must be at the end"),
        ("lora", "{text} or {pair} is {mask}", "names {pair}, but the rows lack a column `pair`"),
        ("head", "{text} is {mask}", "the answers are words of the base's own language head"),
    ):
        task = {"name": "prompted-classification", "pattern": pattern}
        with pytest.raises(PeftToolsError, match=said):
            pefttools.train({**recipe, "method": method, "task": task})
    with pytest.raises(DataError, match="but the rows lack a column `pair`"):
        pefttools.predict(_wrapped(tiny_llama, pattern="{text} or {pair} is {mask}"), ["a"])


def test_a_mask_in_the_pattern_is_refused(masked_base: str) -> None:
    with pytest.raises(ConfigError, match="contains the mask token"):
        _wrapped(masked_base, pattern="{text} [MASK] {mask}")


def test_words_are_checked_before_a_base_is_loaded(tiny_llama: str, tmp_path: Path) -> None:
    from pefttools.recipe import Recipe
    from pefttools.training.prepare import prepare

    train = tmp_path / "train.csv"
    train.write_text("text,label\na,good\nb,bad\n")
    task = {"name": "prompted-classification", "words": {"typo": "great"}}
    data = {"train": str(train), "validation": str(train)}
    with pytest.raises(ConfigError, match="'typo' is not a label"):
        prepare(Recipe.model_validate({"base": tiny_llama, "method": "lora", "task": task, "data": data}))


def test_a_mask_in_a_text_is_not_taken_for_the_patterns(masked_base: str) -> None:
    model = _wrapped(masked_base)
    with pytest.raises(DataError, match="the text contains the mask token"):
        model.spec.task.encode(_table(text=["a [MASK] day"]), model.processor, LABELS, labelled=False)


def test_its_memory_is_planned(tiny_llama: str, masked_base: str) -> None:
    for base in (tiny_llama, masked_base):
        model = _wrapped(base, {"name": "lora", "r": 4})
        (row,) = pefttools.plan(
            base, task="prompted-classification", methods=[{"name": "lora", "r": 4}], labels=2, batch_size=2, length=16
        )
        assert row.trainable_parameters == model.count().trainable
