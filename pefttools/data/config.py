"""The `data` part of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "validation", "test"]
#: a number of rows, or of rows of each label: ``16 per class``
Limit = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d* per class$")]


class DataConfig(BaseModel):
    """Where the rows come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str | list[str] = Field(
        description="file, package: reference or hub data set; those of a list are read one after the other"
    )
    validation: str | list[str] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="the same, or the share of train that is split off, drawn by the seed"
    )
    test: str | list[str] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="the same; used only once, at the end"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="role -> column name, e.g. text: sentence; or a text with columns in it: '{passage} {question}'",
    )
    limit: dict[Split, Limit] = Field(
        default_factory=dict,
        description="maximum number of rows per split, drawn by the seed; '16 per class': of each label",
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="delimiter of csv files; none: detected, a comma by default"
    )
    group: str | None = Field(
        None, description="column of groups, e.g. customers: the rows of one group stay in one split"
    )
    unknown_labels: Literal["refuse", "skip"] = Field(
        "refuse", description="rows whose label does not occur in training: refuse, or skip (left out and counted)"
    )
    seed: int = Field(
        0, description="seed of the validation split and of limit; the same for every run of a comparison"
    )
