"""The pieces of work of a study: each is one training, or what is made of finished ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.tasks import Task

from ..spec import slug
from .spec import ContinualSpec
from .stages import Stage
from .strategies import Alone, Options, Strategy

RUNS = "runs"
ARTIFACT = "artifact"
RESULT = "result.json"


@dataclass(frozen=True)
class Study:
    """A spec with what it says worked out.

    Attributes:
        spec: as it was given.
        task: the task, with the labels of all stages.
        labels: of all stages, in the order of the head's outputs; empty if the task has none.
        stages: in the spec's order.
        strategies: that are compared.
        base: what names the base's weights.
    """

    spec: ContinualSpec
    task: Task[Any]
    labels: tuple[str, ...]
    stages: Sequence[Stage]
    strategies: Sequence[Strategy[Any]]
    base: str

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.spec.output

    def groups(self, learned: Sequence[int]) -> list[list[str]]:
        """Labels that stages which were learned tell apart, group by group; empty if all stages have the same."""
        if self.spec.scenario == "domain-incremental":
            return []
        own = [list(self.stages[number].labels) for number in learned]
        return own if self.spec.scenario == "task-incremental" else [[label for group in own for label in group]]

    def answers(self, learned: Sequence[int], number: int) -> list[str]:
        """Labels that a row of a stage may be answered with once some stages are learned; empty if any."""
        known = self.spec.scenario == "task-incremental"
        return [label for group in self.groups([number] if known else learned) for label in group]


@dataclass(frozen=True)
class Work:
    """One training, or what is made of finished ones.

    Attributes:
        id: name of its folder.
        strategy: which it belongs to.
        seed: of the training.
        learned: numbers of the stages that are learned once it is done, in their order.
        needs: what must be finished before, by id.
        hash: of everything that determines the result.
    """

    id: str
    strategy: Strategy[Any]
    seed: int
    learned: tuple[int, ...]
    needs: tuple[str, ...]
    hash: str


def plan(study: Study) -> list[Work]:
    """All pieces of work, each after what it needs.

    An adapter of each stage alone is always trained: it is the first step of every chain, and what forward transfer is
    measured against.
    """
    found: dict[str, Work] = {}
    for seed in study.spec.seeds:
        for number in range(len(study.stages)):
            work = _work(study, Alone(Options(), Alone.name), seed, (number,), ())
            found[work.id] = work
        for strategy in study.strategies:
            for work in _of_strategy(study, strategy, seed, found):
                found.setdefault(work.id, work)
    return list(found.values())


def id_of(study: Study, strategy: Strategy[Any], seed: int, learned: Sequence[int]) -> str:
    """Name of the folder of a piece of work; the first stage of a chain is that stage alone."""
    if strategy.kind == "alone" or (strategy.kind in ("chained", "merged") and len(learned) == 1):
        return f"{Alone.name}-{slug(study.stages[learned[0]].name)}-seed{seed}"
    if strategy.kind == "merged":
        learned = sorted(learned)
    stages = "" if strategy.kind in ("joint", "routed") else "-" + ".".join(str(number + 1) for number in learned)
    return f"{slug(strategy.label)}{stages}-seed{seed}"


def _of_strategy(study: Study, strategy: Strategy[Any], seed: int, known: dict[str, Work]) -> Iterator[Work]:
    everything = tuple(range(len(study.stages)))
    alone = tuple(id_of(study, Alone(Options(), Alone.name), seed, (number,)) for number in everything)
    if strategy.kind == "joint":
        yield _work(study, strategy, seed, everything, ())
    elif strategy.kind == "routed":
        yield _work(study, strategy, seed, everything, tuple(known[one] for one in alone))
    elif strategy.kind != "alone":
        made = dict(known)
        for order in study.spec.sequences():
            for count in range(2, len(order) + 1):
                learned = order[:count]
                if strategy.kind == "merged":
                    needed = tuple(made[alone[number]] for number in sorted(learned))
                    work = _work(study, strategy, seed, tuple(sorted(learned)), needed)
                else:
                    work = _work(study, strategy, seed, learned, (made[id_of(study, strategy, seed, learned[:-1])],))
                made[work.id] = work
                yield work


def _work(study: Study, strategy: Strategy[Any], seed: int, learned: tuple[int, ...], needs: Sequence[Work]) -> Work:
    spec = study.spec
    content = {
        "base": study.base,
        **spec.model_dump(mode="json", include={"variant", "method", "task", "scenario", "objective", "training"}),
        "selection": spec.selection.model_dump(mode="json"),
        "strategy": strategy.name,
        "options": strategy.options.model_dump(mode="json"),
        "labels": study.labels,
        "stages": [[study.stages[number].name, study.stages[number].digest] for number in learned],
        # every model is evaluated on the test rows of all stages
        "all": sorted([stage.name, stage.digest] for stage in study.stages),
        "seed": seed,
        "needs": [one.hash for one in needs],
        "orders": spec.sequences() if strategy.kind == "routed" else [],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Work(id_of(study, strategy, seed, learned), strategy, seed, learned, tuple(one.id for one in needs), digest)
