"""From a row with a prompt and its completion, or with a chat, to tokens that fit the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pefttools.errors import ConfigError
from pefttools.tasks.language.chat_writer import ChatWriter, Piece
from pefttools.tasks.language.chats import SYSTEM, Message, after_examples, chat_of, without_oldest_turn
from pefttools.tasks.language.generation import answer_text
from pefttools.tasks.task import IGNORE, Example

#: a prompt may be tokenized to a few tokens more when its beginning is cut off
_TRIES = 5


@dataclass(frozen=True)
class _Tokens:
    """A row's tokens: the prompt, in which earlier answers may be learned too, and the completion."""

    prompt: list[int]
    prompt_labels: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def encoded(row: Mapping[str, Any], writer: ChatWriter, *, answered: bool, cut: bool = True) -> Example:
    """Tokens of a row.

    What is longer than ``max_length`` loses its oldest turns, then the beginning of the oldest message that is left,
    then the end of its answer; never its system message.

    Args:
        row: ``messages``, or ``prompt`` and ``completion``.
        writer: writes them as text.
        answered: whether there is an answer to learn.
        cut: whether to shorten what is too long.

    Returns:
        ``input_ids``, ``prompt_ids``, ``reference`` (the answer's text), ``length`` (tokens before anything was cut)
        and, if it is answered, ``labels``.

    Raises:
        ConfigError: the chat template refuses the chat, or the system message alone is too long.
    """
    messages = after_examples(chat_of(row, answered=answered), writer.examples)
    chat = bool(row.get("messages") or writer.examples)

    def tokens(messages: Sequence[Message]) -> _Tokens:
        pieces = writer.pieces(messages, chat=chat, answered=answered, tools=row.get("tools"))
        return _tokenized(pieces, writer, answered)

    limit = writer.options.max_length
    whole = found = tokens(messages)
    if cut and len(found) > limit:
        while len(found) > limit and (shorter := without_oldest_turn(messages)) is not None:
            messages, found = shorter, tokens(shorter)
        room = limit - min(len(found.completion), limit // 2)
        for _ in range(_TRIES):
            if len(found.prompt) > room:
                messages = _shortened(messages, len(found.prompt) - room, writer)
                found = tokens(messages)
        if len(found.prompt) > room:
            raise _too_long(writer)
    ids = found.prompt + found.completion
    example: Example = {"input_ids": ids, "prompt_ids": found.prompt, "reference": "", "length": len(whole)}
    if answered:
        answer = messages[-1]
        example["reference"] = answer["content"]
        if answer.get("tool_calls"):
            example["reference"] = answer_text(found.completion, writer.tokenizer, writer.ends).strip()
        example["labels"] = found.prompt_labels + found.completion
    if cut:
        for name in ("input_ids", "labels"):
            if name in example:
                example[name] = example[name][:limit]
    return example


def _tokenized(pieces: Sequence[Piece], writer: ChatWriter, answered: bool) -> _Tokens:
    # Piece by piece, so that the cut between prompt and answer is where generation will start.
    tokenizer, eos = writer.tokenizer, writer.tokenizer.eos_token_id
    ids: list[list[int]] = []
    for index, piece in enumerate(pieces):
        special = index == 0 and not writer.templated
        own = list(tokenizer(piece.text, add_special_tokens=special)["input_ids"])
        if special and eos is not None and own[-1:] == [eos]:
            own.pop()
        ids.append([*own, eos] if piece.ends and eos is not None else own)
    before = list(zip(pieces, ids, strict=True))[: -1 if answered else None]
    return _Tokens(
        [token for _, own in before for token in own],
        [token if piece.learned else IGNORE for piece, own in before for token in own],
        ids[-1] if answered else [],
    )


def _shortened(messages: Sequence[Message], tokens: int, writer: ChatWriter) -> list[Message]:
    """The chat with that many tokens cut from the beginning of the first message that may be cut.

    The end of a prompt says more about the answer than its beginning.
    """
    answer = len(messages) - 1
    for index, message in enumerate(messages):
        if message["role"] in SYSTEM or (index == answer and message["role"] == "assistant") or not message["content"]:
            continue
        rest = _without_beginning(message["content"], tokens, writer.tokenizer)
        if rest:
            return [*messages[:index], {**message, "content": rest}, *messages[index + 1 :]]
    raise _too_long(writer)


def _without_beginning(text: str, tokens: int, tokenizer: Any) -> str:
    """The text without its first `tokens` tokens; empty if it has no more than that."""
    if not tokenizer.is_fast:  # it does not say where in the text a token begins
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][tokens:]))
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[offsets[tokens][0] :] if tokens < len(offsets) else ""


def _too_long(writer: ChatWriter) -> ConfigError:
    return ConfigError(
        f"the system message and the chat template alone are longer than task.max_length={writer.options.max_length}",
        hint="Raise task.max_length, or shorten the system message.",
    )
