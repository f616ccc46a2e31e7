"""The spec of a labelling: rows, labels, and how the next rows are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pefttools.bases import variants
from pefttools.compute.config import SelectionConfig, TrainingConfig
from pefttools.data import DataConfig
from pefttools.recipe import Choice, MethodChoice, read_yaml, validate
from pefttools.tasks import tasks

StrategyName = Literal["random", "entropy", "margin", "core-set", "badge"]


class LabellingSpec(BaseModel):
    """Rows that are labelled a few at a time, by a person or from a file that has the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("labelling", description="title of the report")
    base: str = Field(description="folder, .gguf file, package: reference or hub id of the base model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    variant: str = Field(
        default_factory=variants.default, description="number format of the base's weights; see `pefttools variants`"
    )
    method: MethodChoice = Field(description="name, or a mapping with name and options, or a list of several")
    task: Choice = Field(default_factory=tasks.default, description="name, or a mapping; see `pefttools tasks`")
    objective: Choice | list[Choice] = Field(default_factory=list, description="of all trainings")
    data: DataConfig = Field(
        description="train: the rows to label, which a simulation reads with their labels; validation and test: for "
        "the scores of a simulation"
    )
    labels: list[str] = Field(
        default_factory=list, description="what a person may choose from; a simulation takes those of the rows"
    )
    strategies: list[StrategyName] = Field(
        default=["margin"],
        min_length=1,
        description="compared by a simulation; a person is asked for the rows of the first",
    )
    start: int = Field(20, ge=2, description="rows that are labelled first, drawn at random")
    per_round: int = Field(20, ge=1, description="rows that are labelled before the model is trained anew")
    rounds: int = Field(5, ge=1, description="number of trainings after the first, in a simulation")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [0], min_length=1, description="a simulation is repeated with each"
    )
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="of all trainings")
    selection: SelectionConfig = Field(default_factory=lambda: SelectionConfig(), description="of all trainings")
    reuse: Literal["same", "any"] = Field("same", description="see the spec of `pefttools bench`")
    output: Path = Field(Path("runs/labelling"), description="folder of the rows, the models and the report")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.strategies)) < len(self.strategies):
            raise ValueError("strategies: one is listed twice")
        return self


def load_spec(path: Path, overrides: Sequence[str] = ()) -> LabellingSpec:
    """Read a spec from YAML.

    Raises:
        ConfigError: anything wrong in it.
    """
    return validate(LabellingSpec, read_yaml(path, overrides), str(path))
