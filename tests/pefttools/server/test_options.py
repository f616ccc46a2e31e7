"""Every option of the official client, tried: it is honoured, changes nothing, or is refused by its name.

The table of ``docs/serving.md`` is what these tests find; a difference shows the table to put there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]
DOCS = Path(__file__).parents[3] / "docs" / "serving.md"

_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
#: option -> values that ask for something, and values that ask for nothing
TRIED: dict[str, tuple[list[Any], list[Any]]] = {
    "audio": ([{"format": "wav", "voice": "alloy"}], []),
    "best_of": ([2], [1]),
    "echo": ([True], [False]),
    "frequency_penalty": ([0.5], [0]),
    "function_call": (["auto", {"name": "f"}], ["none"]),
    "functions": ([[_FUNCTION]], [[]]),
    "logit_bias": ([{"50": -100}], [{}]),
    "logprobs": ([True, 0, 2], []),
    "max_completion_tokens": ([3], []),
    "max_tokens": ([3], []),
    "metadata": ([{"a": "b"}], []),
    "modalities": ([["text", "audio"]], [["text"]]),
    "moderation": ([{"model": "m"}], []),
    "n": ([2], [1]),
    "parallel_tool_calls": ([], [True, False]),
    "prediction": ([{"type": "content", "content": "x"}], []),
    "presence_penalty": ([0.5], [0]),
    "prompt_cache_key": (["k"], []),
    "prompt_cache_options": ([{}], []),
    "prompt_cache_retention": (["24h"], []),
    "reasoning_effort": (["low"], []),
    "response_format": ([{"type": "json_object"}], [{"type": "text"}]),
    "safety_identifier": (["me"], []),
    "seed": ([5], []),
    "service_tier": (["flex"], ["auto"]),
    "stop": ([["e"]], [[]]),
    "store": ([True], [False]),
    "stream": ([True], [False]),
    "stream_options": ([{"include_usage": True}], []),
    "suffix": ([" end"], [""]),
    "temperature": ([1.5], []),
    "tool_choice": (["required", {"type": "function", "function": {"name": "f"}}], ["none", "auto"]),
    "tools": ([[_TOOL]], [[]]),
    "top_logprobs": ([3], [0]),
    "top_p": ([0.2], [1]),
    "user": (["me"], []),
    "verbosity": (["low"], []),
    "web_search_options": ([{}], []),
}
#: of other servers, which the client sends as extra_body
EXTRA: dict[str, tuple[list[Any], list[Any]]] = {
    "ignore_eos": ([True], [False]),
    "length_penalty": ([2.0], [1.0]),
    "min_p": ([0.1], [0]),
    "min_tokens": ([3], [0]),
    "repetition_penalty": ([1.2], [1.0]),
    "skip_special_tokens": ([False], [True]),
    "stop_token_ids": ([[5]], [[]]),
    "top_k": ([1], [0, -1]),
    "use_beam_search": ([True], [False]),
}
_ASKED = {"self", "messages", "model", "prompt", "extra_headers", "extra_query", "extra_body", "timeout"}
_BASE = {"temperature": 1.0, "seed": 3, "max_tokens": 12}


def _ask(client: openai.OpenAI, chat: bool, options: dict[str, Any], extra: dict[str, Any]) -> Any:
    given = {**_BASE, **options}
    if options.get("max_completion_tokens") is not None:
        del given["max_tokens"]
    if chat:
        messages = [{"role": "user", "content": "a text that goes on"}]
        call: Any = client.chat.completions.create
        found = call(model="acme", messages=messages, extra_body=extra, **given)
    else:
        call = client.completions.create
        found = call(model="acme", prompt="a text that goes on", extra_body=extra, **given)
    if given.get("stream"):
        return "stream", sum(1 for _ in found) > 3
    choice = found.choices[0]
    return choice.message.content if chat else choice.text, choice.finish_reason


def _does(client: openai.OpenAI, chat: bool, name: str, wanted: list[Any], nothing: list[Any], extra: bool) -> str:
    """What an option does, in the table's words."""
    plain = _ask(client, chat, {}, {})
    for value in [*nothing, None]:
        given = ({}, {name: value}) if extra else ({name: value}, {})
        if name not in _BASE or value is not None:
            assert _ask(client, chat, *given) == plain, f"{name}={value!r} changed the answer"
    changed, refused = [], []
    for value in wanted:
        options = {"stream": True} if name == "stream_options" else {}
        given = (options, {name: value}) if extra else ({**options, name: value}, {})
        try:
            changed.append(_ask(client, chat, *given) != plain)
        except openai.BadRequestError as error:
            assert error.status_code == 400 and name in error.message, error.message
            refused.append(value)
    assert not refused or not changed, f"{name}: some values are refused, others taken"
    if refused:
        return "refused"
    return "honoured" if any(changed) else "changes nothing"


@pytest.fixture
def client(serve: Serve, tiny_llama: str, writers: Artifacts) -> openai.OpenAI:
    server = serve(tiny_llama, {"acme": [writers(1)]}, max_wait_ms=0)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.slow
def test_the_table_of_options_is_what_is_found(client: openai.OpenAI) -> None:
    of_chats = [name for name in inspect.signature(Chats.create).parameters if name not in _ASKED]
    of_texts = [name for name in inspect.signature(Completions.create).parameters if name not in _ASKED]
    lines = ["| option | chats | completions |", "|---|---|---|"]
    for name, (wanted, nothing) in {**TRIED, **EXTRA}.items():
        extra = name in EXTRA
        cells = []
        for chat, names in ((True, of_chats), (False, of_texts)):
            own = [value for value in wanted if not (name == "logprobs" and chat != isinstance(value, bool))]
            cells.append(_does(client, chat, name, own, nothing, extra) if extra or name in names else "–")
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    assert {*of_chats, *of_texts} <= TRIED.keys(), "the client has an option that is not tried"
    table = "\n".join(lines)
    assert table in DOCS.read_text(encoding="utf-8"), f"put into {DOCS.name}:\n{table}"


@pytest.mark.parametrize(("name", "said"), [
    ("temprature", "there is no option 'temprature'; did you mean 'temperature'?"),
    ("max_new_tokens", "there is no option 'max_new_tokens'"),
    ("x" * 500, "there is no option 'xxx"),
])  # fmt: skip
def test_an_option_that_is_misspelt_is_refused(name: str, said: str, client: openai.OpenAI) -> None:
    for value in (0.5, None):
        with pytest.raises(openai.BadRequestError) as raised:
            _ask(client, True, {}, {name: value})
        assert said in raised.value.message and len(raised.value.message) < 300


def test_what_clients_send_of_themselves_is_taken(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="acme", messages=[{"role": "user", "content": "hello"}], seed=1)
    answered = first.choices[0].message
    history: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]},
        {"role": "user", "content": "hello", "name": "me"},
        answered.model_dump(),  # refusal, tool_calls, annotations and audio are null
        {"role": "assistant", "content": None},
        {"role": "user", "content": ""},
    ]
    plain = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hello"},
             {"role": "assistant", "content": answered.content}, {"role": "assistant", "content": ""},
             {"role": "user", "content": ""}]  # fmt: skip
    asked: dict[str, Any] = {"model": "acme", "temperature": 0, "max_tokens": 5}
    sent = client.chat.completions.create(messages=history, tools=[], **asked)
    wanted = client.chat.completions.create(messages=plain, **asked)  # type: ignore[arg-type]
    assert sent.choices[0].message.content == wanted.choices[0].message.content
    assert sent.usage == wanted.usage


@pytest.mark.parametrize(("message", "said"), [
    ({"role": "user"}, "needs content"),
    ({"role": "user", "content": None}, "needs content"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content"),
    ({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}, "tool_calls is not supported"),
    ({"role": "tool", "content": "a"}, "role"),
])  # fmt: skip
def test_a_message_that_can_not_be_read_is_refused(message: Any, said: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="acme", messages=[message])
    assert said in raised.value.message
