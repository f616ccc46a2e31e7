"""Options of sentence embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pefttools.tasks.task import TextTaskConfig


class SentenceEmbeddingConfig(TextTaskConfig):
    """Options of sentence embedding."""

    head: Literal["auto", "mean", "cls", "last"] = Field(
        "auto",
        description="how the states of the tokens are pooled into one; auto: what the base's files say, else the mean",
    )
    projection: bool = Field(
        False,
        description="a linear layer on the pooled states, initialized to the identity: what the method head trains",
    )
    temperature: float = Field(0.05, ge=0.001, description="similarities are divided by it in the loss")
    symmetric: bool = Field(False, description="for pairs: the positive must find its text too")
    form: Literal["auto", "pairs", "labels"] = Field(
        "auto",
        description="pairs: a text and its positive; labels: texts with the same label are near; auto: by the columns",
    )
    negatives: int | None = Field(
        None, ge=0, description="maximum number of a row's hard negatives in a training batch; none: all of them"
    )
