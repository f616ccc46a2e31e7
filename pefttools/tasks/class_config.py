"""Options of sequence classification."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pefttools.tasks.task import TaskConfig

HeadKind = Literal["auto", "mean", "cls", "last", "model"]


class ClassificationConfig(TaskConfig):
    """Options of sequence classification."""

    head: HeadKind = Field(
        "auto",
        description="mean, cls, last: pool the states and add one linear layer; model: the model's own head; "
        "auto: what the base's files say, else the model's own",
    )
    labels: list[str] = Field(
        default_factory=list, description="all labels, in the order of the outputs; empty: those of the training rows"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="label -> factor of its rows' loss in training; balanced: rows / (labels * rows of the label), so "
        "that every label weighs the same",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of every training label that is spread over all labels alike"
    )
