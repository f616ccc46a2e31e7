"""What is done about forgetting: each strategy says how the next stage is trained."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pefttools.errors import ConfigError, UnknownNameError
from pefttools.recipe import Choice, validate

Keeping = Literal["reservoir", "balanced"]


class Options(BaseModel):
    """Options of a strategy; it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EWCOptions(Options):
    """Options of elastic weight consolidation."""

    rows: int = Field(200, ge=1, description="rows of earlier stages that the Fisher information is estimated from")
    strength: float = Field(10.0, gt=0, description="factor of the term")


class L2SPOptions(Options):
    """Options of L2-SP."""

    alpha: float = Field(0.1, gt=0, description="factor of half the squared distance from the stage before")


class ReplayOptions(Options):
    """Options of replay."""

    rows: int = Field(200, ge=1, description="rows of earlier stages that are kept, all together")
    keep: Keeping = Field("balanced", description="reservoir: any; balanced: as many of each class")


class LwFOptions(Options):
    """Options of learning without forgetting."""

    temperature: float = Field(2.0, gt=0, description="see the objective distillation")
    alpha: float = Field(0.5, gt=0, lt=1, description="share of the answers of the stage before in the loss")


class MergedOptions(Options):
    """Options of merged adapters."""

    rule: str = Field("ties", description="see `pefttools compose`")
    density: float = Field(0.5, gt=0, le=1, description="share of each change that is kept, unless the rule is sum")
    weight: float = Field(0.5, gt=0, description="of each adapter")
    rank: int = Field(32, ge=1, description="of the merged adapter")


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Place:
    """A stage within an order, as a strategy sees it.

    Attributes:
        previous: artifact of the stage before.
        groups: labels of each earlier stage; those of all of them together where a row's stage is not known; empty
            where all stages have the same labels.
        kept: gives the file of a number of rows of earlier stages, kept in one of two ways.
    """

    previous: Path
    groups: Sequence[Sequence[str]]
    kept: Callable[[int, Keeping], Path]


@dataclass(frozen=True)
class Changes:
    """What a strategy changes in the recipe of the next stage.

    Attributes:
        goes_on: whether it starts from the artifact of the stage before.
        objective: what it adds to the loss.
        rows: files of rows that are trained on beside those of the stage.
    """

    goes_on: bool = True
    objective: Mapping[str, Any] | None = None
    rows: Sequence[Path] = ()


class Strategy(ABC, Generic[OptionsT]):
    """One way to learn stage after stage, with its options.

    Args:
        options: validated options.
        label: its name in the report.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config: ClassVar[type[Options]] = Options
    #: chained: one adapter goes through all stages; alone: one adapter per stage; routed: the same, and a router
    #: chooses; joint: one adapter for all stages at once; merged: the adapters of the stages, merged
    kind: ClassVar[Literal["chained", "alone", "routed", "joint", "merged"]] = "chained"

    def __init__(self, options: OptionsT, label: str) -> None:
        self.options: OptionsT = options
        self.label = label

    def next_stage(self, place: Place) -> Changes:
        """How the next stage is trained, where one adapter goes through all of them."""
        return Changes()


class Plain(Strategy[Options]):
    """The adapter is trained on each stage in turn, and nothing is done about forgetting."""

    name = "plain"
    summary = "trained on each stage in turn"


class EWC(Strategy[EWCOptions]):
    """Weights that earlier stages depend on are held.

    The Fisher information is estimated anew before each stage, at the weights of that time, from rows of all earlier
    stages. The paper adds up one estimate per stage, each at the weights of its own time, and keeps no rows.

    References:
        Kirkpatrick, J. et al. (2017). https://arxiv.org/abs/1612.00796
    """

    name = "ewc"
    summary = "weights that earlier stages depend on are held (elastic weight consolidation)"
    config = EWCOptions

    def next_stage(self, place: Place) -> Changes:
        rows = place.kept(self.options.rows, "reservoir")
        options = {"rows": str(rows), "limit": self.options.rows, "strength": self.options.strength}
        return Changes(objective={"name": "ewc", **options})


class L2SP(Strategy[L2SPOptions]):
    """All weights are pulled to those of the stage before.

    References:
        Li, X., Grandvalet, Y. and Davoine, F. (2018). https://arxiv.org/abs/1802.01483
    """

    name = "l2-sp"
    summary = "weights are pulled to those of the stage before"
    config = L2SPOptions

    def next_stage(self, place: Place) -> Changes:
        return Changes(
            objective={"name": "l2-sp", "alpha": self.options.alpha, "beta": self.options.alpha, "head": "start"}
        )


class Replay(Strategy[ReplayOptions]):
    """Some rows of earlier stages are trained on again.

    References:
        Chaudhry, A. et al. (2019). On tiny episodic memories in continual learning. https://arxiv.org/abs/1902.10486
    """

    name = "replay"
    summary = "some rows of earlier stages are trained on again"
    config = ReplayOptions

    def next_stage(self, place: Place) -> Changes:
        return Changes(rows=[place.kept(self.options.rows, self.options.keep)])


class LwF(Strategy[LwFOptions]):
    """The answers of the stage before to the new rows are learned too, over the labels of each earlier stage.

    References:
        Li, Z. and Hoiem, D. (2016). Learning without forgetting. ECCV. https://arxiv.org/abs/1606.09282
    """

    name = "lwf"
    summary = "the answers of the stage before are learned too (learning without forgetting)"
    config = LwFOptions

    def next_stage(self, place: Place) -> Changes:
        options = self.options
        return Changes(
            objective={
                "name": "distillation",
                "teacher": str(place.previous),
                "temperature": options.temperature,
                "alpha": options.alpha,
                "among": [list(group) for group in place.groups],
            }
        )


class Alone(Strategy[Options]):
    """One adapter per stage, and the stage of each row is known: nothing can be forgotten."""

    name = "alone"
    summary = "one adapter per stage, and each row's stage is known"
    kind = "alone"


class Routed(Strategy[Options]):
    """One adapter per stage, and a router chooses one for each row.

    The router is a linear discriminant of the base's own features, trained on the stages so far: means and one
    covariance, which can be added up without keeping rows.
    """

    name = "routed"
    summary = "one adapter per stage, chosen by a router that is learned"
    kind = "routed"


class Joint(Strategy[Options]):
    """One adapter, trained on the rows of all stages at once."""

    name = "joint"
    summary = "trained on all stages at once"
    kind = "joint"


class Merged(Strategy[MergedOptions]):
    """One adapter per stage, merged into one after each stage.

    References:
        Yadav, P. et al. (2023). TIES-merging: resolving interference when merging models. NeurIPS.
        https://arxiv.org/abs/2306.01708
    """

    name = "merged"
    summary = "one adapter per stage, merged into one"
    config = MergedOptions
    kind = "merged"


STRATEGIES: dict[str, type[Strategy[Any]]] = {
    kind.name: kind for kind in (Plain, EWC, L2SP, Replay, LwF, Merged, Routed, Alone, Joint)
}


def choose(choices: Sequence[Choice]) -> list[Strategy[Any]]:
    """The strategies that a spec names.

    Raises:
        UnknownNameError: no such strategy.
        ConfigError: no such option, or two with the same label.
    """
    found = []
    for index, choice in enumerate(choices):
        where = f"strategies.{index}"
        options = {"name": choice} if isinstance(choice, str) else dict(choice)
        name = options.pop("name", None)
        if not isinstance(name, str) or name not in STRATEGIES:
            raise UnknownNameError("strategy", str(name), STRATEGIES, where=where)
        label = str(options.pop("label", name))
        kind = STRATEGIES[name]
        found.append(kind(validate(kind.config, options, where), label))
    labels = [one.label for one in found]
    if double := next((one for one in labels if labels.count(one) > 1), None):
        raise ConfigError(
            f"two strategies have the label {double!r}", hint="Give one its own: {name: ..., label: ...}."
        )
    return found
