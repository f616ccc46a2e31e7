"""Chats as rows hold them: what a message is, and how a chat that is too long is shortened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pefttools.data import Table
from pefttools.tasks.text.texts import check_whole

Message = dict[str, Any]

#: roles of messages that apply to the whole chat
SYSTEM = ("system", "developer")


def chat_of(row: Mapping[str, Any], *, answered: bool) -> list[Message]:
    """The messages of a row; a prompt and its completion are a chat of two.

    Args:
        row: ``messages``, or ``prompt`` and ``completion``.
        answered: whether to keep the answer to learn; if not, an answer at the end is left out.
    """
    if row.get("messages"):
        messages = [_plain(message) for message in row["messages"]]
        while not answered and messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return messages
    messages = [{"role": "user", "content": row["prompt"]}]
    if answered:
        messages.append({"role": "assistant", "content": row["completion"]})
    return messages


def after_examples(messages: Sequence[Message], examples: Sequence[Message]) -> list[Message]:
    """A chat with turns put before it, behind its system messages.

    Args:
        messages: the chat.
        examples: questions and answers by turns; one that asks what the chat asks is left out.
    """
    system, rest = _apart(messages)
    asked = {message["content"] for message in rest}
    pairs = zip(examples[::2], examples[1::2], strict=True)
    return [*system, *(one for pair in pairs if pair[0]["content"] not in asked for one in pair), *rest]


def without_oldest_turn(messages: Sequence[Message]) -> list[Message] | None:
    """A chat without its oldest turn; system messages and the last turn stay. None if there is no other turn."""
    system, rest = _apart(messages)
    starts = [index for index, message in enumerate(rest) if message["role"] == "user" and index]
    return [*system, *rest[starts[0] :]] if starts else None


def _apart(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """System messages, and the others."""
    system = [message for message in messages if message["role"] in SYSTEM]
    return system, [message for message in messages if message["role"] not in SYSTEM]


def check_messages(table: Table, index: int, messages: Any, *, answered: bool) -> None:
    """Check a row's chat.

    Raises:
        DataError: it is not a chat, or has no answer where one is needed.
    """
    if not isinstance(messages, list) or not messages:
        raise table.error(index, "messages", "a list of messages with role and content is needed")
    check_whole(table, index, "messages", messages)
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise table.error(index, "messages", f"message {number} must be an object with role and content")
        try:
            text = text_of(message.get("content"))
        except TypeError:
            raise table.error(index, "messages", f"the content of message {number} is not text") from None
        if not text.strip() and not message.get("tool_calls"):
            raise table.error(index, "messages", f"message {number} ({message['role']}) is empty")
    if answered and (messages[-1]["role"] != "assistant" or len(messages) < 2):
        raise table.error(index, "messages", "a chat must end with an answer of the role 'assistant'")
    if not any(message["role"] not in (*SYSTEM, "assistant") for message in messages):
        raise table.error(index, "messages", "there is no message to answer, such as one of the role 'user'")


def _plain(message: Mapping[str, Any]) -> Message:
    """A message without empty fields, which tables add where another row has the field."""
    given = {key: value for key, value in message.items() if value is not None}
    return {**given, "content": text_of(given.get("content"))}


def text_of(content: Any) -> str:
    """The text of a message's content: a string, parts of type text, or nothing next to tool calls.

    Raises:
        TypeError: anything else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part["text"]) for part in content)
    raise TypeError(f"{content!r} is not text")
