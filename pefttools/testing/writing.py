"""Generated text must not depend on padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pefttools.errors import ConfigError
from pefttools.tasks.task import Example
from pefttools.testing.subject import WORKS, DifferenceError, Outcome, Subject, tolerance
from pefttools.tuned import TunedModel


def check_written(subject: Subject) -> Outcome:
    """In a batch a model writes what it writes alone; or the method refuses padding with an error."""
    task = subject.model.spec.task
    if not task.generates:
        return Outcome("not tried", "the task generates nothing")
    if task.encoder_decoder:
        return _by_decoder(subject.model, subject.examples)
    prompts = [{"input_ids": one["prompt_ids"]} for one in subject.examples]
    return _after_padding(subject.model, prompts)


def _after_padding(model: TunedModel, prompts: Sequence[dict[str, Any]]) -> Outcome:
    def answer(some: Sequence[dict[str, Any]]) -> list[list[int]]:
        padded = model.tokenizer.pad(list(some), padding_side="left", return_tensors="pt")
        found: list[list[int]] = model.generate(dict(padded), max_new_tokens=5, min_new_tokens=5).tolist()
        return found

    can = model.spec.method.capabilities.left_padding
    try:
        together = answer(prompts)
    except ConfigError as error:
        assert not can, error
        return Outcome("refused", str(error))
    assert can, "it declares that it can't generate with padding"
    for row, prompt in zip(together, prompts, strict=True):
        (alone,) = answer([prompt])
        if row != alone and not _tied(model, prompt["input_ids"], row, alone):
            raise DifferenceError("padding before a prompt changes what is generated")
    return WORKS


def _tied(model: TunedModel, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two continuations diverge where both tokens are equally likely, up to rounding."""
    at = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    ids = torch.tensor([[*prompt, *one[:at]]])
    logits = model.run_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0, -1].float()
    apart = float((logits[one[at]] - logits[other[at]]).abs())
    return apart <= 2 * tolerance(model) * max(1.0, float(logits.abs().max()))


def _by_decoder(model: TunedModel, examples: Sequence[Example]) -> Outcome:
    """It writes the most likely token after what it has written so far."""
    task: Any = model.spec.task
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5}
    together = task.written(model, examples, **options)
    for row, example in zip(together.tolist(), examples, strict=True):
        (alone,) = task.written(model, [example], **options).tolist()
        if row != alone:
            raise DifferenceError("padding changes what is written")
        logits = model.run([{**example, "labels": row}])[0]
        logits[:, task.answer_ends(model.processor)] = -torch.inf  # as the minimum number of tokens requires
        if logits.argmax(-1).tolist() != row:
            raise DifferenceError("what is written is not what is most likely")
    return WORKS
