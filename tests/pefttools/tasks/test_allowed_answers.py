"""Generating tasks that may write nothing but certain answers: alone, in a pool, and behind a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.pool import AdapterPool
from pefttools.recipe import Recipe, choose_task
from pefttools.tasks.language.allowed import AllowedAnswers, OnlyAllowed
from pefttools.training.prepare import prepare
from tests.pefttools.server.conftest import fill_lora, serve  # noqa: F401

TOPICS = ["card lost", "card", "top up by cash", "refund"]
PROMPTS = ["where is my card ?", "a refund , please", "how do i top up ?", "x"]
END = 9


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(0, 2**16),
)
def test_whatever_the_logits_an_allowed_answer_comes_out(answers: list[list[int]], seed: int) -> None:
    """Answers may begin alike, and one may be the beginning of another."""
    only = AllowedAnswers({str(index): (one,) for index, one in enumerate(answers)}, [END], 5)
    process = OnlyAllowed([None, only], [3, 2])
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 10, (2, 3), generator=generator)
    rows[1, 2] = only.after([])[0]
    written = [int(rows[1, 2])]
    while written[-1] != END:
        scores = torch.randn(2, 10, generator=generator)
        found = process(rows, scores)
        assert torch.equal(found[0], scores[0])
        allowed = found[1] > float("-inf")
        assert torch.equal(found[1][allowed], scores[1][allowed])
        rows = torch.cat([rows, found.argmax(1, keepdim=True)], dim=1)
        written.append(int(rows[1, -1]))
    assert written[:-1] in answers


def _trained(base: str, task: dict[str, Any], folder: Path, seed: int) -> Path:
    model = pefttools.wrap(base, "lora", r=2, task=task, precision="float32")
    fill_lora(model, seed)
    pefttools.save(model, folder)
    return folder


CAUSAL = {"name": "causal-lm", "template": "none", "max_new_tokens": 6}
WRITING = {"name": "seq2seq-lm", "max_length": 32, "max_target_length": 16, "max_new_tokens": 6}


@pytest.mark.parametrize(
    ("base", "task"),
    [
        pytest.param("tiny_llama", CAUSAL, id="decoder"),
        pytest.param("tiny_t5", WRITING | {"beams": 3}, id="beams"),
        pytest.param("tiny_t5", WRITING, id="encoder-decoder", marks=pytest.mark.slow),
    ],
)
def test_alone_and_in_a_pool(base: str, task: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Rows of one batch have answers of their own, or none that they are kept to."""
    where = request.getfixturevalue(base)
    folders = {
        "topics": _trained(where, task | {"answers": TOPICS}, tmp_path / "topics", 1),
        "moods": _trained(where, task | {"answers": ["good", "bad"]}, tmp_path / "moods", 2),
        "free": _trained(where, task, tmp_path / "free", 3),
    }
    role = "prompt" if base == "tiny_llama" else "text"
    rows = [{role: prompt} for prompt in PROMPTS]
    alone = {name: [one["prediction"] for one in pefttools.predict(folder, rows)] for name, folder in folders.items()}
    assert set(alone["topics"]) <= set(TOPICS)
    assert set(alone["moods"]) <= {"good", "bad"}
    assert not set(alone["free"]) & {*TOPICS, "good", "bad"}
    pool = AdapterPool(where)
    for name, folder in folders.items():
        pool.load(name, folder)
    pairs = [(name, index) for index in range(len(rows)) for name in folders]
    lengths = None if role == "text" else 6
    mixed = pool.generate([rows[index] for _, index in pairs], [name for name, _ in pairs], max_new_tokens=lengths)
    assert mixed == [alone[name][index] for name, index in pairs]


def test_a_decoder_of_its_own_behind_a_server(tiny_t5: str, tmp_path: Path, serve: Any) -> None:  # noqa: F811
    """Where a request does not say how many tokens, there is room for the longest answer; answers are in one batch."""
    import httpx

    long = "top up by cash at a shop in the town where the card was sold to me last year"
    options = {"answers": [long, "refund"], "max_new_tokens": 24, "max_target_length": 24}
    folder = _trained(tiny_t5, WRITING | options, tmp_path / "a", 4)
    wanted = [one["prediction"] for one in pefttools.predict(folder, [{"text": prompt} for prompt in PROMPTS])]
    assert set(wanted) <= {long, "refund"}
    server = serve(tiny_t5, {"a": [folder]}, max_run_ms=0)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        told = http.post("/v1/completions", json={"model": "a", "prompt": PROMPTS, "temperature": 0}).json()
    assert [one["text"].strip() for one in told["choices"]] == wanted
    assert {one["finish_reason"] for one in told["choices"]} == {"stop"}


def test_it_is_the_most_likely_of_them_word_by_word(tiny_llama: str, tmp_path: Path) -> None:
    model = pefttools.load(_trained(tiny_llama, CAUSAL | {"answers": ["good", "bad"]}, tmp_path / "a", 5))
    task = model.spec.task
    first = {answer: task.written_answers(answer, model.processor)[0][0] for answer in ("good", "bad")}
    for prompt in PROMPTS:
        ids = torch.tensor([task.prompt_ids({"prompt": prompt}, model.processor)])
        with model.inference_mode():
            logits = model.transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        wanted = max(first, key=lambda answer: float(logits[first[answer]]))
        table = Table("here", [{"prompt": prompt}], {"prompt": "prompt"}, [1])
        examples = task.encode(table, model.processor, [], labelled=False)
        assert task.answers(model, examples, batch_size=1) == [wanted]


def test_behind_a_server(tiny_llama: str, tmp_path: Path, serve: Any) -> None:  # noqa: F811
    import httpx

    folder = _trained(tiny_llama, CAUSAL | {"answers": TOPICS}, tmp_path / "a", 1)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    wanted = [one["prediction"] for one in pefttools.predict(folder, [{"messages": chat} for chat in chats])]
    server = serve(tiny_llama, {"a": [folder]}, max_run_ms=0)
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for chat, answer in zip(chats, wanted, strict=True):
            asked = {"model": "a", "messages": chat, "temperature": 0}
            told = http.post("/v1/chat/completions", json=asked).json()
            assert told["choices"][0]["message"]["content"].strip() == answer
            drawn = http.post("/v1/chat/completions", json={**asked, "temperature": 1.5, "seed": 3}).json()
            assert drawn["choices"][0]["message"]["content"].strip() in TOPICS


def test_what_makes_no_sense_is_refused(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="must be distinct, not empty, and without spaces"):
        choose_task(CAUSAL | {"answers": ["a", "a"]})
    table = Table("here", [{"prompt": "p", "completion": "other"}], {"prompt": "p", "completion": "c"}, [1])
    with pytest.raises(DataError, match=r"row 1, column 'c': 'other' is not one of the answers in task\.answers"):
        choose_task(CAUSAL | {"answers": ["good"]}).check(table, [])
    model = pefttools.wrap(
        tiny_llama, "lora", task=CAUSAL | {"answers": [" ".join(["good"] * 10)]}, precision="float32"
    )
    upper = pefttools.wrap(tiny_llama, "lora", task=CAUSAL | {"answers": ["Good"]}, precision="float32")
    with pytest.raises(ConfigError, match="the base's tokenizer gives 'good' back for 'Good'"):
        upper.spec.task.check_with(upper.processor)
    parts = [{"role": "user", "content": "p"}, {"role": "assistant", "content": [{"type": "text", "text": "good"}]}]
    rows = [{"messages": parts}]
    choose_task(CAUSAL | {"answers": ["good"]}).check(Table("here", rows, {"messages": "messages"}, [1]), [])
    with pytest.raises(
        ConfigError, match=r"(?s)takes 11 tokens, but task.max_new_tokens is 6.*Set task.max_new_tokens=11"
    ):
        model.spec.task.check_with(model.processor)
    only = OnlyAllowed([AllowedAnswers({"a": [[1, 2]]}, [END], 5)], [0])
    with pytest.raises(ConfigError, match="the base's generation settings forbid every token"):
        only(torch.tensor([[1]]), torch.where(torch.arange(10) == 2, float("-inf"), 0.0)[None])


def test_too_long_an_answer_is_found_before_training(tiny_llama: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "completion": "good good good"}\n' * 8)
    recipe = {
        "base": tiny_llama, "method": "lora", "output": str(tmp_path / "a"),
        "task": CAUSAL | {"answers": ["good good good"], "max_new_tokens": 3, "generate": False},
        "data": {"train": str(path), "validation": str(path)},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="'good good good' takes 4 tokens"):
        prepare(Recipe.model_validate(recipe))


def _bytes_in_pairs() -> Any:
    """A tokenizer to which a word with a space before it is another token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(["a good day, a good night, a bad day"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize("plain", ["lines", "joined"])
def test_what_is_learned_is_allowed(plain: str) -> None:
    """Prompts, chats, and completions that begin with a space have other tokens for the same answer."""
    tokenizer = _bytes_in_pairs()
    task = choose_task({"name": "causal-lm", "plain": plain, "answers": ["good", "bad"]})
    only = task.only_answers(tokenizer, task.answer_ends(tokenizer))
    rows: list[dict[str, Any]] = [
        {"prompt": "a day", "completion": "good"},
        {"prompt": "a day", "completion": " good"},
        {"messages": [{"role": "user", "content": "a day"}, {"role": "assistant", "content": "good"}]},
    ]
    seen = set()
    for row in rows:
        example = task.encode(Table("here", [row], {name: name for name in row}, [1]), tokenizer, [])[0]
        written = example["input_ids"][len(example["prompt_ids"]) :]
        for at, token in enumerate(written):
            assert token in only.after(written[:at])
        assert only.after(written) == []
        seen.add(tuple(written))
    assert len(seen) == 2


def test_answers_of_a_decoder_are_not_cut(tiny_t5: str) -> None:
    model = pefttools.wrap(tiny_t5, "untuned", task=WRITING | {"max_target_length": 4}, precision="float32")
    (written,) = model.spec.task.written_answers("where is my new card", model.processor)
    assert model.tokenizer.decode(written, skip_special_tokens=True) == "where is my new card"


def test_an_answer_goes_on_where_it_stopped(tiny_llama: str, tmp_path: Path) -> None:
    """As a server resumes it: what was written is at the end of the prompt."""
    _trained(tiny_llama, CAUSAL | {"answers": TOPICS}, tmp_path / "a", 1)
    pool = AdapterPool(tiny_llama)
    pool.load("a", tmp_path / "a")
    prompts = [pool.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    for prompt in prompts:
        whole = pool.generate_tokens(_padded([prompt]), ["a"], max_new_tokens=6)[0].tolist()
        for written in range(1, len(whole)):
            begun = _padded([prompt + whole[:written]])
            rest = pool.generate_tokens(begun, ["a"], max_new_tokens=6 - written, written=[written])[0].tolist()
            assert whole[:written] + rest == whole


def _padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
