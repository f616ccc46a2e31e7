"""The learning rates of training: one for what the method trains, one for the task head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pefttools.bases import Base
from pefttools.compute.config import TrainingConfig
from pefttools.methods import Method


@dataclass(frozen=True)
class Rates:
    """Learning rates.

    Attributes:
        method: rate of what the method trains.
        head: rate of the task head; the same if the method trains nothing else.
    """

    method: float
    head: float


def default_rates(settings: TrainingConfig, method: Method[Any], base: Base) -> Rates:
    """The rates that a recipe names, else the method's own for this base."""
    head_only = method.capabilities.trains == "head"
    head = settings.head_learning_rate
    rate = settings.learning_rate
    if rate is None:
        named = head_only and "head_learning_rate" in settings.model_fields_set
        rate = head if named else method.default_learning_rate(base.parameters)
    return Rates(rate, rate if head_only else head)
