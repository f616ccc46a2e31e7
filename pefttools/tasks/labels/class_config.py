"""Options of tasks that give one label of several."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pefttools.data.labels import label_text
from pefttools.tasks.task import TaskConfig
from pefttools.tasks.text.text_head import TextHeadConfig


class ClassOptions(TaskConfig):
    """Labels, and how they are weighted."""

    labels: list[str] = Field(
        default_factory=list, description="all labels, in output order; empty: those of the training rows"
    )
    class_weights: Literal["balanced", "effective"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="label -> factor for its rows' loss in training; balanced: rows / (labels * rows of the label), so "
        "that every label has the same weight; effective: the inverse of the effective number of its rows, "
        "(1 - 0.999^rows) / (1 - 0.999), scaled to a mean of 1 over the labels (Cui et al. 2019)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing: share of each target that is spread evenly over all labels"
    )
    among: list[list[str]] = Field(
        default_factory=list,
        description="groups of labels: in training, a row's label is told apart from the others of its group alone; "
        "empty: all labels are one group",
    )
    answers: list[str] = Field(
        default_factory=list, description="labels that a prediction may give; empty: those of all groups of `among`"
    )

    @field_validator("labels", "answers", mode="before")
    @classmethod
    def _labels_by_value(cls, given: Any) -> Any:
        return [_name(one) for one in given] if isinstance(given, list | tuple) else given

    @field_validator("among", mode="before")
    @classmethod
    def _groups_by_value(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        groups = [[_name(one) for one in group] if isinstance(group, list | tuple) else group for group in given]
        if any(isinstance(group, list) and not group for group in groups):
            raise ValueError("a group is empty")
        every = [label for group in groups if isinstance(group, list) for label in group]
        if double := next((label for label in every if every.count(label) > 1), None):
            raise ValueError(f"the label {double!r} is listed twice")
        return groups

    @model_validator(mode="after")
    def _not_smoothed(self) -> Self:
        if self.among and self.label_smoothing:
            raise ValueError("label_smoothing would spread a target over labels that `among` leaves out")
        return self

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
