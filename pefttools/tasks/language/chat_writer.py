"""Chats as the text that a model reads: by the tokenizer's chat template, or as plain lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pefttools.errors import ConfigError
from pefttools.tasks.language.causal_lm_config import CausalLMConfig
from pefttools.tasks.language.chats import SYSTEM, Message

_PROBE = "pefttools"


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: as the tokenizer gets it.
        learned: whether it is an answer that the loss is computed on.
        ends: whether the tokenizer's end of text follows it.
    """

    text: str
    learned: bool = False
    ends: bool = False


class ChatWriter:
    """Writes chats for one tokenizer.

    Args:
        tokenizer: the base's tokenizer.
        options: options of the task.
    """

    def __init__(self, tokenizer: Any, options: CausalLMConfig) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.templated = options.template != "none" and tokenizer.chat_template is not None

    def pieces(self, messages: Sequence[Message], *, chat: bool, answered: bool, tools: Any = None) -> list[Piece]:
        """A chat in pieces; with ``answered`` the last one is the answer to learn.

        Args:
            messages: before the default system message is added.
            chat: whether the row has messages, not a prompt.
            answered: whether the last message is the answer.
            tools: descriptions of functions, for the template.

        Raises:
            ConfigError: the chat template refuses the chat, or can't be used for training.
        """
        given = list(messages)
        if self.options.system is not None and self.takes_system and given[0]["role"] not in SYSTEM:
            given.insert(0, {"role": "system", "content": self.options.system})
        if self.templated:
            return self._by_template(given, answered, tools)
        if tools:
            raise ConfigError("tool descriptions need a tokenizer with a chat template")
        if self.options.plain == "joined":
            return self._joined(given, answered)
        return self._lines(given, answered) if chat else self._prompt(given, answered)

    @property
    def examples(self) -> list[Message]:
        """``task.examples`` as turns."""
        return [
            {"role": role, "content": content}
            for one in self.options.examples
            for role, content in (("user", one.prompt), ("assistant", one.completion))
        ]

    @property
    def takes_system(self) -> bool:
        """Whether ``task.system`` has an effect."""
        return self.templated or self.options.plain == "lines"

    @cached_property
    def turn_end(self) -> int | None:
        """The token with which the chat template ends an answer; None if it has none, or there is no template."""
        if not self.templated:
            return None
        probe: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            after = self._render(probe).rpartition(_PROBE)[2]
        except ConfigError:
            return None
        known = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        return next((int(token) for token in ids if token in known), None)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the end of a turn, and the tokenizer's end of text."""
        found = [self.turn_end, self.tokenizer.eos_token_id]
        return sorted({int(token) for token in found if token is not None})

    def _by_template(self, messages: list[Message], answered: bool, tools: Any) -> list[Piece]:
        if not answered:
            return [Piece(self._render(messages, tools, prompt=True))]
        whole = self._render(messages, tools)
        found: list[Piece] = []
        at = 0
        for turn in self._learned(messages):
            last = turn == len(messages) - 1
            before = self._render(messages[:turn], tools, prompt=True)
            after = whole if last else self._render(messages[: turn + 1], tools)
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= at):
                raise ConfigError(
                    "the tokenizer's chat template does not put this answer after its prompt: it rewrites earlier "
                    "turns" if self.options.train_on == "all" else
                    "the tokenizer's chat template does not put an answer after its prompt",
                    hint="Set task.train_on=last, or task.template=none.",
                )  # fmt: skip
            ends = self.turn_end is None
            found += [Piece(whole[at : len(before)]), Piece(whole[len(before) : len(after)], learned=True, ends=ends)]
            at = len(after)
        return found

    def _learned(self, messages: Sequence[Message]) -> list[int]:
        """Indices of the answers that are learned."""
        last = len(messages) - 1
        if self.options.train_on == "last":
            return [last]
        asked = next((index for index, one in enumerate(messages) if one["role"] not in (*SYSTEM, "assistant")), last)
        return [index for index, one in enumerate(messages) if one["role"] == "assistant" and index > asked]

    def _render(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
            )
        except (TemplateError, TypeError) as error:
            raise ConfigError(f"the tokenizer's chat template refuses this chat: {error}") from error
        return text

    def _lines(self, messages: Sequence[Message], answered: bool) -> list[Piece]:
        """``Role: text`` on a line each; every answer ends with the end of text."""
        learned = self._learned(messages) if answered else []
        found: list[Piece] = []
        waiting = ""  # text that is not in a piece yet
        for index, message in enumerate(messages):
            waiting += ("\n" if found or waiting else "") + f"{message['role'].capitalize()}:"
            text = f" {_written(message)}"
            if index in learned:
                found += [Piece(waiting), Piece(text, learned=True, ends=True)]
                waiting = ""
            elif message["role"] == "assistant":
                found.append(Piece(waiting + text, ends=True))
                waiting = ""
            else:
                waiting += text
        return found if answered else [*found, Piece(f"{waiting}\nAssistant:")]

    def _prompt(self, messages: Sequence[Message], answered: bool) -> list[Piece]:
        """System message, prompt and completion, each on a line; a prompt that ends in white space stays as it is."""
        *before, completion = messages if answered else [*messages, None]
        text = "\n".join(str(message["content"]) for message in before if message is not None)
        prompt = Piece(text if text[-1:].isspace() else f"{text}\n")
        return [prompt] if completion is None else [prompt, Piece(completion["content"], learned=True, ends=True)]

    def _joined(self, messages: Sequence[Message], answered: bool) -> list[Piece]:
        """Only the contents, the answer directly after its prompt."""
        before = messages[:-1] if answered else messages
        prompt = Piece("\n".join(_written(message) for message in before))
        return [prompt, Piece(_written(messages[-1]), learned=True, ends=True)] if answered else [prompt]


def _written(message: Message) -> str:
    """A message's text, with the functions that it calls as JSON."""
    calls = message.get("tool_calls")
    parts = [message["content"]] if message["content"] else []
    return "\n".join([*parts, json.dumps(calls, ensure_ascii=False)] if calls else parts)
