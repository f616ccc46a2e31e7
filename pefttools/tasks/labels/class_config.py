"""Options of tasks that give one label of several."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pefttools.data.labels import label_text
from pefttools.tasks.task import TaskConfig
from pefttools.tasks.text.text_head import TextHeadConfig


class ClassOptions(TaskConfig):
    """Labels, and how they are weighted."""

    labels: list[str] = Field(
        default_factory=list, description="all labels, in output order; empty: those of the training rows"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="label -> factor for its rows' loss in training; balanced: rows / (labels * rows of the label), so "
        "that every label has the same weight",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing: share of each target that is spread evenly over all labels"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_by_value(cls, given: Any) -> Any:
        return [_name(one) for one in given] if isinstance(given, list | tuple) else given

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_by_value(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        weights = {_name(label): weight for label, weight in given.items()}
        if len(weights) < len(given):
            raise ValueError("a label is listed twice")
        return weights


class ClassificationConfig(TextHeadConfig, ClassOptions):
    """Options of sequence classification."""


def _name(label: Any) -> Any:
    """A label's name as rows have it: YAML reads 0, 1.0 and true as values."""
    return label_text(label) or "" if isinstance(label, str | int | float) else label
