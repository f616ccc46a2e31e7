"""What fits on a card, and what would make it fit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pefttools.bases import variants
from pefttools.errors import ConfigError
from pefttools.planning.device import Device
from pefttools.planning.plan import MemoryPlan, Planned, Shape

#: factor from one traced size to the next
_STEP = 4
#: growth above a straight line by less than this factor does not count
_TOLERANCE = 1.002


@dataclass(frozen=True)
class Change:
    """Something that takes less memory.

    Attributes:
        text: what is changed.
        row: what a training run needs then.
        fits: whether that fits on the card in question.
    """

    text: str
    row: MemoryPlan
    fits: bool


def fits(row: MemoryPlan, card: Device) -> bool:
    """Whether the card has enough memory; always true for a device whose memory is not known."""
    return card.memory is None or row.total_bytes <= card.memory


def cheapest_changes(planned: Planned, shape: Shape) -> Iterator[Change]:
    """Changes, cheapest first, each with its prediction, up to the first that fits.

    Cheap changes cost little time and do not alter results: first recomputed activations, then smaller parts of a
    batch, then fewer bits, and shorter texts last.
    """
    for text, changed, its_shape in _candidates(planned, shape):
        try:
            row = changed.row(its_shape)
        except ConfigError:
            continue  # the method can't be combined with it
        fit = fits(row, planned.device)
        yield Change(text, row, fit)
        if fit:
            return


def _candidates(planned: Planned, shape: Shape) -> Iterator[tuple[str, Planned, Shape]]:
    best = shape
    if shape.gradient_checkpointing is False:
        yield "gradient_checkpointing: selective", planned, replace(shape, gradient_checkpointing="selective")
    if shape.gradient_checkpointing is not True:
        best = replace(best, gradient_checkpointing=True)
        yield "gradient_checkpointing: true", planned, best
    if shape.rows > 1:
        best = replace(best, accumulation=shape.batch_size // shape.devices)
        yield f"gradient_accumulation: {best.accumulation}", planned, replace(shape, accumulation=best.accumulation)
    if shape.eval_batch_size > 1:
        best = replace(best, eval_batch_size=1)
    yield "all of these, and eval_batch_size: 1", planned, best
    if shape.optimizer == "adamw":
        best = replace(best, optimizer="paged_adamw_8bit")
        yield "these, and optimizer: paged_adamw_8bit", planned, best
    smaller = variants.get(planned.variant).smaller
    for variant in smaller:
        yield f"these, on the variant {variant}", replace(planned, variant=variant), best
    # A method that can't use the smallest, such as full fine-tuning, still has its own variant.
    last = [planned.variant, *smaller[-1:]]
    length = shape.length
    while length > 128:
        length //= 2
        for variant in last:
            text = f"these, with texts of {length} tokens, on the variant {variant}"
            yield text, replace(planned, variant=variant), replace(best, length=length)


@dataclass(frozen=True)
class Largest:
    """The maximum that fits on one card.

    Attributes:
        card: the card.
        batch_size: rows of one forward pass in training on one card, of the shape's length; 0 if not even one fits.
        length: tokens of one row; 0 if not even the shortest fits.
    """

    card: Device
    batch_size: int
    length: int


def largest_that_fit(planned: Planned, shape: Shape, cards: Sequence[Device]) -> list[Largest]:
    """Largest batch at the shape's length, and longest text in a batch of one, per card.

    Some sizes are traced; between two of them memory is assumed to grow linearly, if a third has shown that it does so
    or grows faster and faster.
    """
    budgets = [card.usable or 0 for card in cards]

    def of_rows(rows: int) -> int:
        return planned.training_bytes(replace(shape, batch_size=rows * shape.devices, accumulation=1))

    def of_length(length: int) -> int:
        return planned.training_bytes(replace(shape, batch_size=shape.devices, accumulation=1, length=length))

    batches = _largest(of_rows, budgets, 1, 1 << 14)
    lengths = _largest(of_length, budgets, 32, planned.longest)
    return [Largest(*found) for found in zip(cards, batches, lengths, strict=True)]


def _largest(size_of: Callable[[int], int], budgets: Sequence[int], least: int, most: int) -> list[int]:
    need = functools.cache(size_of)
    sizes = [least]
    while need(sizes[-1]) <= max(budgets) and sizes[-1] < most:
        sizes.append(min(sizes[-1] * _STEP, most))
    return [_within(need, sizes, budget) for budget in budgets]


def _within(need: Callable[[int], int], sizes: Sequence[int], budget: int) -> int:
    """A size whose need is within a budget and near it; 0 for none."""
    if need(sizes[0]) > budget:
        return 0
    for low, high in itertools.pairwise(sizes):
        if need(high) > budget:
            return _between(need, low, high, budget)
    return sizes[-1]


def _between(need: Callable[[int], int], low: int, high: int, budget: int) -> int:
    """By linear interpolation between two sizes, one of them within the budget, if memory grows linearly or faster.

    If growth slows down, as when a chunk of the loss is full, the middle of the line is below what is needed there, and
    the half in question is searched in the same way.
    """
    middle = (low + high) // 2
    if middle == low:
        return low
    line = need(low) + (need(high) - need(low)) * (middle - low) / (high - low)
    bent = need(middle) > _TOLERANCE * line
    low, high = (middle, high) if need(middle) <= budget else (low, middle)
    if bent:
        return _between(need, low, high, budget)
    return low + (high - low) * (budget - need(low)) // (need(high) - need(low))
