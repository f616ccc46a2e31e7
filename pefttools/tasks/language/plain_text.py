"""A text of which every token is learned, without a prompt before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pefttools.tasks.task import Example


def is_plain(roles: Iterable[str]) -> bool:
    """Whether rows of these columns are plain texts: a column of texts, and neither prompts nor chats."""
    given = set(roles)
    return "text" in given and not given & {"prompt", "messages"}


def encoded_text(text: str, tokenizer: Any, *, limit: int | None, learned: bool) -> Example:
    """A text as an example.

    Args:
        text: the text.
        tokenizer: the base's tokenizer.
        limit: maximum number of its tokens; None to leave it uncut.
        learned: whether to add labels, and the end of text if it is not cut.

    Returns:
        ``input_ids``, ``prompt_ids`` (what a continuation is generated after), ``reference`` (empty: there is no
        answer), ``length`` (tokens before anything was cut) and, if it is learned, ``labels``.
    """
    eos = tokenizer.eos_token_id
    ids = list(tokenizer(text)["input_ids"])
    if eos is not None and ids[-1:] == [eos]:
        ids.pop()
    whole = [*ids, eos] if learned and eos is not None else ids
    example: Example = {
        "input_ids": whole[:limit], "prompt_ids": ids[:limit], "reference": "", "length": len(whole),
    }  # fmt: skip
    if learned:
        example["labels"] = list(example["input_ids"])
    return example
