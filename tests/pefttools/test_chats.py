"""Chats: which tokens a model reads and learns, with and without a template, and where its answers end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.tasks.task import IGNORE

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content %}{{ m.content }}{% endif %}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: drops the reasoning of all answers but the last, as Qwen's and DeepSeek's templates do
THINKING = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1].strip() }}"
)
#: says by words where a turn ends
WORDS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SYSTEM, FIRST, HELLO, SECOND, BYE = (
    {"role": role, "content": content}
    for role, content in (
        ("system", "be kind"), ("user", "good day"), ("assistant", "hello"), ("user", "i must go"),
        ("assistant", "farewell"),
    )
)  # fmt: skip


def _model(base: str, template: str | None = None, **options: Any) -> pefttools.TunedModel:
    model = pefttools.wrap(base, "lora", task={"name": "causal-lm", **options}, precision="float32")
    _give_template(model.tokenizer, template)
    return model


def _give_template(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    tokenizer.add_tokens(["[unused0]", "[unused1]"], special_tokens=True)


def named(template: str) -> str:
    """The template with signs that the tiny model's vocabulary has."""
    return template.replace("<|im_start|>", "[unused0]").replace("<|im_end|>", "[unused1]")


def _encoded(model: pefttools.TunedModel, row: dict[str, Any], *, labelled: bool = True) -> tuple[str, str]:
    """The text that is read, and the part of it that is learned."""
    table = Table("chats.jsonl", [row], {key: key for key in row}, [7])
    model.spec.task.check(table, [], labelled=labelled)
    (example,) = model.spec.task.encode(table, model.tokenizer, [], labelled=labelled)
    learned = [token for token in example.get("labels", ()) if token != IGNORE]
    if labelled:
        assert len(example["labels"]) == len(example["input_ids"])
        pairs = zip(example["input_ids"], example["labels"], strict=True)
        assert all(label in (IGNORE, token) for token, label in pairs)
    return model.tokenizer.decode(example["input_ids"]), model.tokenizer.decode(learned)


@pytest.mark.parametrize(
    ("options", "row", "read", "learned"),
    [
        # a prompt and its completion stand on lines of their own, whatever the tokenizer makes of line ends
        ({}, {"prompt": "2 + 2", "completion": "four"}, "[CLS] 2 + 2 four [SEP]", "four [SEP]"),
        ({"system": "add"}, {"prompt": "2 + 2", "completion": "four"}, "[CLS] add 2 + 2 four [SEP]", "four [SEP]"),
        ({}, {"messages": [SYSTEM, FIRST, HELLO]},
         "[CLS] system : be kind user : good day assistant : hello [SEP]", "hello [SEP]"),
        ({"system": "be brief"}, {"messages": [SYSTEM, FIRST, HELLO]},
         "[CLS] system : be kind user : good day assistant : hello [SEP]", "hello [SEP]"),
        ({"system": "be brief"}, {"messages": [FIRST, HELLO]},
         "[CLS] system : be brief user : good day assistant : hello [SEP]", "hello [SEP]"),
        ({}, {"messages": [FIRST, HELLO, SECOND, BYE]},
         "[CLS] user : good day assistant : hello [SEP] user : i must go assistant : farewell [SEP]",
         "farewell [SEP]"),
        ({"train_on": "all"}, {"messages": [FIRST, HELLO, SECOND, BYE]},
         "[CLS] user : good day assistant : hello [SEP] user : i must go assistant : farewell [SEP]",
         "hello [SEP] farewell [SEP]"),
        ({"plain": "joined"}, {"messages": [FIRST, HELLO, SECOND, BYE]},
         "[CLS] good day hello i must go farewell [SEP]", "farewell [SEP]"),
    ],
)  # fmt: skip
def test_plain_text(tiny_llama: str, options: dict[str, Any], row: dict[str, Any], read: str, learned: str) -> None:
    assert _encoded(_model(tiny_llama, **options), row) == (read, learned)


def test_a_prompt_and_its_completion_are_told_apart(tiny_llama: str) -> None:
    from pefttools.tasks.language.chat_writer import ChatWriter
    from pefttools.tasks.language.chats import chat_of

    model = _model(tiny_llama)
    writer = ChatWriter(model.tokenizer, model.spec.task.options)

    def text(prompt: str) -> list[str]:
        chat = chat_of({"prompt": prompt, "completion": "b"}, answered=True)
        return [piece.text for piece in writer.pieces(chat, chat=False, answered=True)]

    assert text("a") == ["a\n", "b"]
    assert text("a: ") == ["a: ", "b"]


@pytest.mark.parametrize(
    ("options", "row", "read", "learned"),
    [
        ({}, {"prompt": "good day", "completion": "hello"},
         "[unused0] user good day [unused1] [unused0] assistant hello [unused1]", "hello [unused1]"),
        ({"system": "be brief"}, {"prompt": "good day", "completion": "hello"},
         "[unused0] system be brief [unused1] [unused0] user good day [unused1] [unused0] assistant hello [unused1]",
         "hello [unused1]"),
        # a row's own system message stands alone
        ({"system": "be brief"}, {"messages": [SYSTEM, FIRST, HELLO]},
         "[unused0] system be kind [unused1] [unused0] user good day [unused1] [unused0] assistant hello [unused1]",
         "hello [unused1]"),
        ({"train_on": "all"}, {"messages": [FIRST, HELLO, SECOND, BYE]},
         "[unused0] user good day [unused1] [unused0] assistant hello [unused1] [unused0] user i must go [unused1] "
         "[unused0] assistant farewell [unused1]", "hello [unused1] farewell [unused1]"),
        # content in parts, and empty fields as tables add them
        ({}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "good day"}], "name": None}, HELLO]},
         "[unused0] user good day [unused1] [unused0] assistant hello [unused1]", "hello [unused1]"),
    ],
)  # fmt: skip
def test_a_template(tiny_llama: str, options: dict[str, Any], row: dict[str, Any], read: str, learned: str) -> None:
    assert _encoded(_model(tiny_llama, named(CHATML), **options), row) == (read, learned)


def test_tool_calls_are_learned(tiny_llama: str) -> None:
    call = [{"type": "function", "function": {"name": "time", "arguments": {}}}]
    row = {"messages": [FIRST, {"role": "assistant", "content": None, "tool_calls": call}]}
    _, learned = _encoded(_model(tiny_llama, named(CHATML)), row)
    assert learned.startswith('[ { " type " :') and learned.endswith("} ] [unused1]")
    row["messages"] += [{"role": "tool", "content": "noon"}, HELLO]
    read, learned = _encoded(_model(tiny_llama, named(CHATML), train_on="all"), row)
    assert "[unused0] tool noon [unused1]" in read
    assert learned.count("[unused1]") == 2 and learned.endswith("hello [unused1]")
    # in plain text as JSON, so that they are not lost
    assert '" name " : " time "' in _encoded(_model(tiny_llama), row)[0]
    with pytest.raises(DataError, match=r"row 7, column 'messages': tool descriptions need"):
        _encoded(_model(tiny_llama), {**row, "tools": call})


def test_reasoning(tiny_llama: str) -> None:
    thought = {"role": "assistant", "content": "<think> so </think> hello"}
    model = _model(tiny_llama, named(THINKING))
    assert _encoded(model, {"messages": [FIRST, thought]})[1] == "< think > so < / think > hello [unused1]"
    # what the template drops from earlier answers can't be learned from the same text
    row = {"messages": [FIRST, thought, SECOND, BYE]}
    assert "think" not in _encoded(model, row)[0]
    with pytest.raises(DataError, match="rewrites earlier turns"):
        _encoded(_model(tiny_llama, named(THINKING), train_on="all"), row)


def test_a_chat_that_waits_for_its_answer_is_read_whole(tiny_llama: str) -> None:
    waiting = "[unused0] system be kind [unused1] [unused0] user good day [unused1] [unused0] assistant"
    model = _model(tiny_llama, named(CHATML))
    assert _encoded(model, {"messages": [SYSTEM, FIRST]}, labelled=False) == (waiting, "")
    # the answer of a labelled row is not shown
    assert _encoded(model, {"messages": [SYSTEM, FIRST, HELLO]}, labelled=False) == (waiting, "")
    asked = [{"messages": [SYSTEM, FIRST]}, {"messages": [SYSTEM, FIRST, HELLO]}, {"messages": [FIRST]}]
    first, second, third = (one["prediction"] for one in pefttools.predict(model, asked))
    assert first == second != third
    with pytest.raises(DataError, match=r"row 1, column 'messages': there is no message to answer"):
        pefttools.predict(model, [{"messages": [SYSTEM]}])


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([FIRST], "must end with an answer"),
        ([FIRST, {"role": "assistant", "content": " "}], "message 2 \\(assistant\\) is empty"),
        ([FIRST, {"role": "assistant", "content": 7}], "the content of message 2 is not text"),
        ([{"content": "x"}, HELLO], "message 1 must be an object with role and content"),
        ("good day", "a list of messages"),
    ],
)
def test_chats_that_can_not_be_learned(tiny_llama: str, messages: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"chats.jsonl, row 7, column 'messages': .*{problem}"):
        _encoded(_model(tiny_llama), {"messages": messages})


@pytest.mark.parametrize("template", [None, named(CHATML)])
def test_a_long_chat_loses_its_oldest_turns_never_its_system_message(tiny_llama: str, template: str | None) -> None:
    turns = [
        {"role": role, "content": f"{word} " * 6 + str(number)}
        for number in range(5)
        for role, word in (("user", "ask"), ("assistant", "answer"))
    ]
    model = _model(tiny_llama, template, max_length=60)
    table = Table("t", [{"messages": [SYSTEM, *turns]}], {"messages": "messages"}, [1])
    (example,) = model.spec.task.encode(table, model.tokenizer, [])
    read = model.tokenizer.decode(example["input_ids"])
    assert len(example["input_ids"]) <= 60 < example["length"]
    assert "be kind" in read and "ask 4" in read and "answer 4" in read
    assert "ask 3" in read and "answer 3" in read and "ask 2" not in read and "answer 2" not in read
    # a single turn loses the beginning of its question
    long = [SYSTEM, {"role": "user", "content": "ask " * 100 + "last"}, HELLO]
    table = Table("t", [{"messages": long}], {"messages": "messages"}, [1])
    (example,) = model.spec.task.encode(table, model.tokenizer, [])
    read = model.tokenizer.decode(example["input_ids"])
    assert "be kind" in read and "ask last" in read and "hello" in read and len(example["input_ids"]) <= 60
    with pytest.raises(DataError, match="the system message and the chat template alone"):
        _encoded(model, {"messages": [{"role": "system", "content": "word " * 100}, FIRST, HELLO]})


class _Script(torch.nn.Module):
    """A language head that says given tokens, one after the other, whatever it reads."""

    def __init__(self, head: torch.nn.Module, tokens: list[int], vocabulary: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.tokens, self.vocabulary, self.step = tokens, vocabulary, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*states.shape[:-1], self.vocabulary)
        logits[..., self.tokens[min(self.step, len(self.tokens) - 1)]] = 1.0
        self.step += 1
        return logits


def test_answers_stop_where_turns_end(tiny_llama: str) -> None:
    model = _model(tiny_llama, named(CHATML), max_new_tokens=6)
    ids = model.tokenizer.convert_tokens_to_ids
    said = [ids("hello"), ids("[unused1]"), ids("card"), ids("card")]
    inner = model.transformer.get_base_model()  # type: ignore[operator]
    inner.lm_head = _Script(inner.lm_head, said, inner.config.vocab_size)
    assert pefttools.predict(model, ["good day"]) == [{"prediction": "hello"}]
    assert inner.lm_head.step == 2  # nothing is computed behind the end


def test_a_template_without_an_end_gets_the_end_of_text(tiny_llama: str) -> None:
    model = _model(tiny_llama, WORDS)
    assert model.spec.task.answer_ends(model.tokenizer) == [model.tokenizer.eos_token_id]
    assert _encoded(model, {"messages": [FIRST, HELLO]})[1] == "hello [SEP]"


def test_the_pool_writes_rows_as_predict_does(tiny_llama: str, tmp_path: Path) -> None:
    base = with_template(tiny_llama, tmp_path / "base", named(CHATML))
    answers = {}
    for name, system in (("kind", "be kind"), ("brief", None)):
        model = pefttools.wrap(base, {"name": "lora", "r": 2}, precision="float32",
                               task={"name": "causal-lm", "system": system, "max_new_tokens": 5})  # fmt: skip
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        pefttools.save(model, tmp_path / name)
        answers[name] = [one["prediction"] for one in pefttools.predict(model, [{"messages": [FIRST]}, "i must go"])]
    pool = pefttools.AdapterPool(base)
    for name in answers:
        pool.load(name, tmp_path / name)
    rows: list[dict[str, Any]] = [
        {"messages": [FIRST]},
        {"messages": [FIRST]},
        {"prompt": "i must go"},
        {"prompt": "i must go"},
    ]
    found = pool.generate(rows, ["kind", "brief", "kind", "brief"], max_new_tokens=5)
    assert found == [answers["kind"][0], answers["brief"][0], answers["kind"][1], answers["brief"][1]]
    # a text is continued as it is
    raw = pool.generate(["good day"], ["kind"], max_new_tokens=5)
    assert raw[0].strip() != answers["kind"][0]


def test_rows_of_one_batch_end_by_tokens_of_their_own(tiny_llama: str, tmp_path: Path) -> None:
    base = with_template(tiny_llama, tmp_path / "base", named(CHATML))
    for name, template in (("chat", "auto"), ("text", "none")):
        model = pefttools.wrap(base, {"name": "lora", "r": 2}, task={"name": "causal-lm", "template": template})
        pefttools.save(model, tmp_path / name)
    pool = pefttools.AdapterPool(base)
    for name in ("chat", "text"):
        pool.load(name, tmp_path / name)
    ids = pool.tokenizer.convert_tokens_to_ids
    said = [ids("hello"), ids("[unused1]"), ids("card"), ids("[SEP]"), ids("card")]
    served = pool.served.model
    served.lm_head = _Script(served.lm_head, said, served.config.vocab_size)  # type: ignore[union-attr, arg-type, operator]
    found = pool.generate([{"prompt": "a"}] * 2, ["chat", "text"], max_new_tokens=5)
    assert found[0] == "hello" and found[1].split()[0] == "hello" and found[1].split()[-1] == "card"
    with pytest.raises(ConfigError, match="can't be combined with beam search"):
        pool.generate([{"prompt": "a"}] * 2, ["chat", "text"], num_beams=2)


def test_artifacts_of_the_first_version_keep_their_prompts(tiny_llama: str, tmp_path: Path) -> None:
    from pefttools.artifact.manifest import read_manifest, write_manifest

    pefttools.save(_model(tiny_llama), tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    options = {key: value for key, value in manifest.task.config.items() if key not in ("plain", "train_on")}
    old = manifest.model_copy(update={"task": manifest.task.model_copy(update={"config": options})})
    write_manifest(tmp_path / "a", old)
    model = pefttools.load(tmp_path / "a")
    assert _encoded(model, {"messages": [FIRST, HELLO]}) == ("[CLS] good day hello [SEP]", "hello [SEP]")


def with_template(base: str, folder: Path, template: str) -> str:
    """A copy of a base whose tokenizer has a chat template."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    _give_template(tokenizer, template)
    tokenizer.save_pretrained(folder)
    return str(folder)
