"""From a row with a prompt and its completion, or with a chat, to tokens."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.tasks.task import IGNORE, Example, TaskConfig


class CausalLMConfig(TaskConfig):
    """Options of causal language modelling."""

    max_length: int = Field(512, ge=8, description="longest prompt and completion together, in tokens")
    template: Literal["auto", "chat", "none"] = Field(
        "auto",
        description="chat: the tokenizer's chat template; none: texts as they are; auto: chat where there is one",
    )
    system: str | None = Field(None, description="system message before every chat")
    max_new_tokens: int = Field(32, ge=1, description="longest generated answer")
    generate: bool = Field(True, description="generate answers at evaluation, for exact match")
    loss_rows: int = Field(
        256, ge=0, description="most rows of logits that stand in memory at a time in training; 0: all of them"
    )
    packing: bool = Field(True, description="train on texts behind each other, without padding, where the model can")


def encoded(row: dict[str, Any], tokenizer: Any, options: CausalLMConfig, labelled: bool) -> Example:
    """Tokens of a row's prompt and completion.

    Args:
        row: ``prompt`` and ``completion``, or ``messages``.
        tokenizer: of the base.
        options: of the task.
        labelled: whether there is a completion.

    Raises:
        ConfigError: the chat template refuses the chat, or is of no use for training.
    """
    prompt, completion, reference = _texts(row, tokenizer, options, labelled)
    # Apart, so that the cut between them is where generation will start.
    special = not _templated(tokenizer, options)
    prompt_ids = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    if special and tokenizer.eos_token_id is not None and prompt_ids[-1:] == [tokenizer.eos_token_id]:
        prompt_ids = prompt_ids[:-1]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"] if labelled else []
    if labelled and special and tokenizer.eos_token_id is not None:
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
    # The end of a prompt says more about the answer than its beginning.
    room = options.max_length - min(len(completion_ids), options.max_length // 2)
    prompt_ids = prompt_ids[-room:]
    ids = (prompt_ids + completion_ids)[: options.max_length]
    example: Example = {"input_ids": ids, "prompt_ids": prompt_ids, "reference": reference}
    if labelled:
        example["labels"] = ([IGNORE] * len(prompt_ids) + completion_ids)[: options.max_length]
    return example


def _templated(tokenizer: Any, options: CausalLMConfig) -> bool:
    return options.template != "none" and tokenizer.chat_template is not None


def _texts(row: dict[str, Any], tokenizer: Any, options: CausalLMConfig, labelled: bool) -> tuple[str, str, str]:
    """Prompt, completion with its end signs, and the bare answer."""
    from jinja2 import TemplateError

    messages = list(row.get("messages") or [])
    if not messages:
        messages = [{"role": "user", "content": row["prompt"]}]
        if labelled:
            messages.append({"role": "assistant", "content": row["completion"]})
    reference = str(messages[-1]["content"]) if labelled else ""
    before = messages[:-1] if labelled else messages
    if not _templated(tokenizer, options):
        return "\n".join(str(message["content"]) for message in before), reference, reference
    start = [{"role": "system", "content": options.system}] if options.system else []
    try:
        prompt = tokenizer.apply_chat_template(start + before, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ConfigError(f"the tokenizer's chat template refuses this chat: {error}") from error
    if not labelled:
        return prompt, "", ""
    whole = tokenizer.apply_chat_template(start + messages, tokenize=False)
    if not whole.startswith(prompt):
        raise ConfigError(
            "the tokenizer's chat template does not put an answer after its prompt",
            hint="Set task.template=none and give prompt and completion.",
        )
    return prompt, whole[len(prompt) :], reference


def check_messages(table: Table, index: int, messages: Any, labelled: bool) -> None:
    """Look at a row's chat.

    Raises:
        DataError: it is none, or has no answer where one is needed.
    """
    good = isinstance(messages, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in messages
    )
    if not good or not messages:
        raise table.error(index, "messages", "a list of objects with role and content is needed")
    if labelled and (messages[-1]["role"] != "assistant" or len(messages) < 2):
        raise table.error(index, "messages", "a chat must end with an answer of the role 'assistant'")
    if any(not one["content"].strip() for one in messages):
        raise table.error(index, "messages", "a message is empty")
