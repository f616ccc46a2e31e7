"""A row of a pool gets what its adapter alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import pefttools
from pefttools.errors import BaseModelError, ConfigError, PeftToolsError
from pefttools.tasks.task import Example
from pefttools.testing.subject import (
    WORKS,
    DifferenceError,
    Outcome,
    Subject,
    assert_alike,
    in_float32,
    logits_of,
    number_format,
)
from pefttools.tuned import TunedModel


def check_mixed(subject: Subject) -> Outcome:
    """In a pool, among rows of the base or of another adapter, each row gets what the adapter alone gives."""
    model = subject.model
    spec = model.spec
    try:
        pool = pefttools.AdapterPool(spec.base.id, variant=spec.variant.name, dtype=number_format(model))
    except BaseModelError as error:
        assert not spec.task.servable, error
        return Outcome("refused", str(error))
    try:
        pool.load("one", subject.artifact)
    except PeftToolsError as error:
        by_name = "can't be served" in str(error) or "can't be pooled" in str(error)
        assert not spec.method.capabilities.deltas or by_name, error
        assert spec.method.name in str(error) or spec.task.name in str(error), f"the error does not name it: {error}"
        return Outcome("refused", str(error))
    pool.load("other", subject.artifact)
    try:
        return _among_others(pool, subject)
    except ConfigError as error:
        assert "can't be served" in str(error) or "a pool can't serve" in str(error), error
        return Outcome("refused", str(error))


def _among_others(pool: pefttools.AdapterPool, subject: Subject) -> Outcome:
    model, spec = subject.model, subject.model.spec
    if spec.task.encoder_decoder:
        _check_written(pool, subject)
        return WORKS
    unlabelled = [{name: value for name, value in one.items() if name != "labels"} for one in subject.examples]
    answers = _pooled(pool, unlabelled)
    if spec.variant.quantized:
        # A pool computes in the number format in which the hardware is fast: the adapter alone gives other values.
        order = list(range(len(unlabelled)))[::-1]
        again = _pooled(pool, [unlabelled[index] for index in order])
        limit = 1e-6 if spec.method.virtual_tokens(spec.config) else 0.0
        for index, other in zip(order, again, strict=True):
            off = float((answers[index] - other).abs().max())
            if not off <= limit:
                raise DifferenceError(f"a row of a pool depends on its neighbours: off by {off:.2e}")
        return WORKS
    for one, answer in zip(unlabelled, answers, strict=True):
        alone = _alone(model, one, answer.ndim)
        assert_alike("a row of a pool", answer, alone, model, partial(_exactly, model, one, answer.ndim))
    return WORKS


def _alone(model: TunedModel, example: Example, dimensions: int) -> torch.Tensor:
    """The row's logits, with as many dimensions as in a pool."""
    found = logits_of(model, [example])
    return found if found.ndim == dimensions else found[0]


def _exactly(model: TunedModel, example: Example, dimensions: int) -> torch.Tensor:
    return _alone(in_float32(model), example, dimensions)


def _pooled(pool: pefttools.AdapterPool, examples: Sequence[Example]) -> list[torch.Tensor]:
    """Logits of the adapter ``one`` for each example, among rows of the base, or of another adapter of its kind."""
    neighbour = None if pool.served.modality == "text" else "other"
    answers = pool.answer([one for one in examples for _ in range(2)], ["one", neighbour] * len(examples))[::2]
    found = [answer.logits.float().cpu() for answer in answers if answer.logits is not None]
    assert len(found) == len(examples), "a row of a pool has no logits"
    return found


def _check_written(pool: pefttools.AdapterPool, subject: Subject) -> None:
    """For a row of a pool the adapter writes what it writes alone, whatever the row's neighbours."""
    model, examples = subject.model, subject.examples
    task: Any = model.spec.task
    names: list[str | None] = ["one", None] * len(examples)
    doubled = [one for one in examples for _ in range(2)]
    mixed = pool.write_tokens(doubled, names, max_new_tokens=5, min_new_tokens=5)[::2].tolist()
    for example, row in zip(examples, mixed, strict=True):
        # With such coarse rounding, words that are almost equally likely may change places.
        if number_format(model) != torch.float32:
            alone = pool.write_tokens([example], ["one"], max_new_tokens=5, min_new_tokens=5)
        else:
            alone = task.written(model, [example], max_new_tokens=5, min_new_tokens=5, num_beams=task.options.beams)
        if alone.tolist() != [row]:
            raise DifferenceError(f"a row of a pool writes {row}, alone {alone.tolist()}")
