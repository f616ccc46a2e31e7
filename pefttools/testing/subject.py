"""What is checked against a contract, and how two results are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import pefttools
from pefttools.tasks.task import IGNORE, Example
from pefttools.testing.rows import encoded_rows
from pefttools.tuned import TunedModel

Choice = str | Mapping[str, Any]
#: one method, or several that are combined
MethodChoice = Choice | Sequence[Choice]
Rows = Sequence[Mapping[str, Any]] | None
#: relative to the largest logit; float32 sums in a different order stay far below, and bfloat16 sums about there
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class DifferenceError(AssertionError):
    """Two results that must be equal are not, and nothing reported it: the worst that a method can do."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check that did not fail.

    Attributes:
        status: ``works``; ``refused``: with an error that names it, before anything was written or answered; ``not
            tried``: there is nothing to try.
        why: the refusal, or why nothing was tried.
    """

    status: Literal["works", "refused", "not tried"]
    why: str = ""


WORKS = Outcome("works")


def answers_of(artifact: Path, rows: Rows) -> torch.Tensor:
    """Logits of an artifact, loaded afresh."""
    loaded = pefttools.load(artifact)
    return logits_of(loaded, encoded_rows(loaded, rows))


@dataclass(frozen=True)
class Subject:
    """A method that was trained and saved, to be checked.

    Attributes:
        model: the trained model.
        base: the base's name, as it was given.
        method: the method, as it was given.
        task: the task, as it was given.
        folder: for what checks write.
        artifact: where it was saved.
        rows: rows that it was trained on; None for short texts.
        examples: the encoded rows.
        before: logits before training.
        trained: logits after training.
        answers: loads an artifact and answers rows; may be replaced by one that does so in another process.
    """

    model: TunedModel
    base: str
    method: MethodChoice
    task: Choice
    folder: Path
    artifact: Path
    rows: Rows
    examples: Sequence[Example]
    before: torch.Tensor
    trained: torch.Tensor
    answers: Callable[[Path, Rows], torch.Tensor] = answers_of


def logits_of(model: TunedModel, examples: Sequence[Example]) -> torch.Tensor:
    """Logits without those of padding, in float32 on the CPU."""
    batch = model.spec.task.collate(examples, model.processor)
    found = model.run_batch({name: value for name, value in batch.items() if name != "labels"}).float().cpu()
    if found.ndim < 3:
        return found
    if model.spec.task.encoder_decoder:
        return found[batch["labels"] != IGNORE]
    return found[batch["attention_mask"].bool()] if "attention_mask" in batch else found


def assert_alike(
    what: str,
    found: torch.Tensor,
    wanted: torch.Tensor,
    model: TunedModel,
    exact: Callable[[], torch.Tensor] | None = None,
) -> None:
    """Logits are the same up to the rounding of the model's number format.

    Args:
        what: what gives them, for the message.
        found: the logits.
        wanted: what they are to be.
        model: the model.
        exact: gives them in float32, for what a rounded number can decide, such as which expert reads a token: then
            they may be no further from these than `wanted` is, give or take the usual rounding.

    Raises:
        DifferenceError: they are not.
    """
    if found.shape != wanted.shape:
        raise DifferenceError(f"{what} gives the shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
    limit = tolerance(model) * max(1.0, float(wanted.abs().max()))
    off = float((found - wanted).abs().max())
    if not off <= limit and not (exact is not None and as_near(found, wanted, exact(), limit)):
        raise DifferenceError(f"{what} is off by {off:.2e}, with logits up to {float(wanted.abs().max()):.2f}")


def as_near(found: torch.Tensor, wanted: torch.Tensor, exact: torch.Tensor, limit: float) -> bool:
    """Whether one result is no further from the exact one than another is, up to a limit."""
    rounding = float((wanted - exact).abs().max())
    return float((found - exact).abs().max()) <= rounding + limit


def in_float32(model: TunedModel) -> TunedModel:
    """A copy that computes in float32, from weights of the same values."""
    exact = copy.deepcopy(model).float()
    exact.autocast = None
    return exact


def tolerance(model: TunedModel) -> float:
    """How far sums in a different order may differ, relative to the largest value."""
    return _TOLERANCE.get(number_format(model), 1e-4)


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two weights are the same, whatever number format they are stored in."""
    parts = getattr(one, "__tensor_flatten__", None)
    if parts is None:
        return torch.equal(one.float(), other.float())
    return all(same_numbers(getattr(one, name), getattr(other, name)) for name in parts()[0])


def number_format(model: TunedModel) -> Any:
    """Number format of the base's hidden states; None for a quantized base, which has its own."""
    return None if model.spec.variant.quantized else next(model.transformer.parameters()).dtype
