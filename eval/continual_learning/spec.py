"""The spec of a study of continual learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pefttools.bases import variants
from pefttools.compute.config import SelectionConfig, TrainingConfig
from pefttools.data import DataConfig
from pefttools.recipe import Choice, MethodChoice, read_yaml, validate
from pefttools.tasks import tasks

Scenario = Literal["task-incremental", "class-incremental", "domain-incremental"]


class StageConfig(BaseModel):
    """One of the stages, with rows of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="name in the report")
    data: DataConfig = Field(description="its rows")


class ContinualSpec(BaseModel):
    """Stages, the orders in which they are learned, and the strategies that are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("continual learning", description="title of the report")
    base: str = Field(description="folder, .gguf file, package: reference or hub id of the base model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    variant: str = Field(
        default_factory=variants.default, description="number format of the base's weights; see `pefttools variants`"
    )
    method: MethodChoice = Field(description="name, or a mapping with name and options, or a list of several")
    task: Choice = Field(default_factory=tasks.default, description="name, or a mapping; see `pefttools tasks`")
    stages: list[StageConfig] = Field(default_factory=list, description="two or more, each with its rows")
    data: DataConfig | None = Field(None, description="instead of stages: rows whose labels are dealt into `parts`")
    parts: int | None = Field(None, ge=2, description="number of stages that the labels of `data` are dealt into")
    scenario: Scenario = Field(
        "class-incremental",
        description="task-incremental: the stage of a row is known when it is predicted; class-incremental: it is not, "
        "and labels are added stage by stage; domain-incremental: all stages have the same labels",
    )
    strategies: list[Choice] = Field(min_length=1, description="names, or mappings with name and options")
    baseline: str = Field("plain", description="label of the strategy that the others are compared with")
    orders: Annotated[int, Field(ge=1)] | list[list[int]] = Field(
        1,
        description="number of orders, each shifted by one place, so that with as many orders as stages each stage is "
        "once at each place; or the orders themselves, as lists of the stages' numbers from 1",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [0], min_length=1, description="everything is trained once with each"
    )
    objective: Choice | list[Choice] = Field(default_factory=list, description="of all trainings")
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="of all trainings")
    selection: SelectionConfig = Field(default_factory=lambda: SelectionConfig(), description="of all trainings")
    reuse: Literal["same", "any"] = Field("same", description="see the spec of `pefttools bench`")
    output: Path = Field(Path("runs/continual"), description="folder of the runs and the report")

    @model_validator(mode="after")
    def _stages_or_parts(self) -> Self:
        if bool(self.stages) == (self.data is not None):
            raise ValueError("give either stages, or data with the number of parts")
        if (self.data is None) != (self.parts is None):
            raise ValueError("data and parts belong together")
        if self.stages and len(self.stages) < 2:
            raise ValueError("one stage alone is not continual: give two or more")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages have the same name")
        if self.parts is not None and self.scenario == "domain-incremental":
            raise ValueError("parts have different labels: the scenario is not domain-incremental")
        self.sequences()
        return self

    @property
    def count(self) -> int:
        """Number of stages."""
        return self.parts or len(self.stages)

    def sequences(self) -> list[tuple[int, ...]]:
        """The orders, as numbers of stages from 0.

        Raises:
            ValueError: not an order of these stages, or more shifts than there are.
        """
        count = self.count
        if isinstance(self.orders, int):
            if self.orders > count:
                raise ValueError(f"orders: {count} stages can be shifted {count} times; list further orders themselves")
            return [tuple((place + shift) % count for place in range(count)) for shift in range(self.orders)]
        for order in self.orders:
            if sorted(order) != list(range(1, count + 1)):
                raise ValueError(f"orders: {order} does not name each of the stages 1 to {count} once")
        if not self.orders or len(set(map(tuple, self.orders))) < len(self.orders):
            raise ValueError("orders: the list is empty, or has one twice")
        return [tuple(number - 1 for number in order) for order in self.orders]


def load_spec(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> ContinualSpec:
    """Read a spec from YAML.

    Raises:
        ConfigError: anything wrong in it.
    """
    return validate(ContinualSpec, read_yaml(path, overrides), str(path))
