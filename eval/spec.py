"""The spec of a comparison, and the runs that follow from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pefttools.compute.config import SelectionConfig, TrainingConfig
from pefttools.data import DataConfig
from pefttools.errors import ConfigError
from pefttools.recipe import Choice, MethodChoice, Recipe, method_title, read_yaml, validate
from pefttools.robustness import Condition
from pefttools.tasks.passages import KnowledgeConfig
from pefttools.training.rates import Rates

from .records import ARTIFACT, RUNS
from .robustness import settings_of, titles


class Search(BaseModel):
    """How many learning rates each method may try: the same budget for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: int = Field(1, ge=1, le=9, description="number of trials, spread around the method's own default")
    head_learning_rate: int = Field(
        1, ge=1, le=9, description="the same for the task head, combined with each of the method's; 1: one rate for all"
    )
    factor: float = Field(3.0, gt=1, description="ratio between neighbouring learning rates")
    extend: int = Field(
        2, ge=0, le=9, description="further trials beyond the edge, while the best is the largest or smallest one tried"
    )

    @property
    def trials(self) -> int:
        """Rates that each method tries before it goes beyond them."""
        return self.learning_rate * self.head_learning_rate

    def rates(self, default: Rates, *, head_only: bool) -> list[Rates]:
        """Rates to try: the defaults in the middle, their neighbours by `factor`.

        Args:
            default: of the method and of the head.
            head_only: the two are one rate, which gets as many trials.
        """
        if head_only:
            return [Rates(rate, rate) for rate in self._around(default.method, self.trials)]
        heads = self._around(default.head, self.head_learning_rate)
        return [Rates(rate, head) for rate in self._around(default.method, self.learning_rate) for head in heads]

    def _around(self, default: float, count: int) -> list[float]:
        return [default * self.factor ** (index - count // 2) for index in range(count)]

    def beyond(self, tried: Sequence[Rates], best: Rates | None, *, head_only: bool) -> Rates | None:
        """The rates to try next, if the best of those tried are at their edge; None if they are not.

        Args:
            tried: so far.
            best: of them; None if all diverged, so that only smaller ones can work.
            head_only: the two are one rate.
        """
        method = self._outwards([one.method for one in tried], None if best is None else best.method)
        if head_only:
            return None if method is None else Rates(method, method)
        if method is not None:
            return Rates(method, min(one.head for one in tried) if best is None else best.head)
        if best is None or self.head_learning_rate == 1:
            return None
        head = self._outwards([one.head for one in tried], best.head)
        return None if head is None else Rates(best.method, head)

    def _outwards(self, tried: Sequence[float], best: float | None) -> float | None:
        if best is None or best == min(tried):
            return min(tried) / self.factor
        return best * self.factor if best == max(tried) else None


class BenchSpec(BaseModel):
    """Which methods are compared, on which base, task and data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("comparison", description="title of the report")
    base: str = Field(description="folder, .gguf file, package: reference or hub id of the base model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    variants: list[str] = Field(
        default_factory=lambda: ["float32"],
        min_length=1,
        description="number formats of the base's weights, each with every method; see `pefttools variants`",
    )
    methods: list[MethodChoice] = Field(
        min_length=1,
        description="names, mappings with name, options, and optionally label, variants, training, objective and "
        "knowledge, or lists",
    )
    task: Choice = Field("sequence-classification", description="name, or a mapping; see `pefttools tasks`")
    objective: Choice | list[Choice] = Field(
        default_factory=list, description="of all methods that name none; see `pefttools objectives`"
    )
    data: DataConfig = Field(description="where the rows come from")
    knowledge: KnowledgeConfig | None = Field(
        None, description="passages that are looked up for all methods that name no knowledge of their own"
    )
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="of all methods")
    selection: SelectionConfig = Field(
        default_factory=lambda: SelectionConfig(), description="metric for checkpoints, trials and the report"
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: [0], min_length=1, description="every method is trained once with each"
    )
    baseline: str = Field("full", description="label of the method that the others are compared with")
    robustness: list[Condition] = Field(
        default_factory=list,
        description="conditions under which each chosen model is measured too, on the same rows: typos, attacks",
    )
    search: Search = Field(default_factory=lambda: Search(), description="learning rates that each method tries")
    storage: str = Field("auto", description="number format of the artifacts: auto, float16 or float32")
    reuse: Literal["same", "any"] = Field(
        "same",
        description="runs that are kept when a comparison is continued: same: those made with the same versions on the "
        "same machine, the others are repeated; any: all, and the report marks those that were made differently",
    )
    memory_check: bool = Field(True, description="skip a run that is predicted not to fit in memory")
    output: Path = Field(Path("runs/comparison"), description="folder of the runs and the report")


class PlannedRun(BaseModel):
    """One run: a recipe with its label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    label: str
    recipe: Recipe
    search: Search
    memory_check: bool = True
    robustness: tuple[Condition, ...] = ()

    def hash(self, digests: dict[str, str]) -> str:
        """sha256 of all that determines the result: the resolved recipe, the search, and base and data by content."""
        content = self.recipe.settings()
        del content["output"]
        search = self.search.model_dump(mode="json")
        if self.search.head_learning_rate == 1:
            del search["head_learning_rate"]  # as records of earlier versions have it
        content |= {"search": search, "digests": digests}
        if self.robustness:
            content["robustness"] = settings_of(self.robustness)
        # The order of the fields in a file does not matter.
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_spec(path: Path, overrides: Sequence[str] = ()) -> BenchSpec:
    """Read a spec from YAML.

    Raises:
        ConfigError: anything wrong in it.
    """
    return validate(BenchSpec, read_yaml(path, overrides), str(path))


def plan(spec: BenchSpec) -> list[PlannedRun]:
    """All runs of a spec, the first seed of every method before the second of any.

    Raises:
        ConfigError: two runs with the same name, or a repeated seed; conditions with the same title.
    """
    titles(spec.robustness)
    runs = [
        _planned(spec, choice, index, variant, seed)
        for seed in spec.seeds
        for index, choice in enumerate(spec.methods)
        for variant in _variants(spec, choice, index)
    ]
    ids = [run.id for run in runs]
    double = next((one for one in ids if ids.count(one) > 1), None)
    if double is not None:
        raise ConfigError(
            f"two runs would have the name {double!r}",
            hint="Give one of the methods its own label: {name: ..., label: ...}.",
        )
    return runs


def _variants(spec: BenchSpec, choice: MethodChoice, index: int) -> list[str]:
    variants = choice.get("variants", spec.variants) if isinstance(choice, dict) else spec.variants
    if not isinstance(variants, list) or not all(isinstance(one, str) for one in variants):
        raise ConfigError(f"methods.{index}.variants: a list of names is needed, not {variants!r}")
    return variants


def _planned(spec: BenchSpec, choice: MethodChoice, index: int, variant: str, seed: int) -> PlannedRun:
    options: dict[str, Any] = dict(choice) if isinstance(choice, dict) else {}
    options.pop("variants", None)
    label = str(options.pop("label", method_title(choice)))
    changes = options.pop("training", {})
    if not isinstance(changes, dict):
        raise ConfigError(f"methods.{index}.training: a mapping is needed, not {changes!r}")
    objective = options.pop("objective", spec.objective)
    knowledge = options.pop("knowledge", None if spec.knowledge is None else spec.knowledge.model_dump(mode="json"))
    name = "-".join((slug(label), slug(variant), f"seed{seed}"))
    training = {**spec.training.model_dump(mode="json"), **changes, "checkpoints": False}
    recipe = {
        "base": spec.base,
        "revision": spec.revision,
        "variant": variant,
        "method": options or choice,
        "task": spec.task,
        "objective": objective,
        "data": spec.data.model_dump(mode="json"),
        "knowledge": knowledge,
        "training": training,
        "selection": spec.selection.model_dump(mode="json"),
        "seed": seed,
        "output": spec.output / RUNS / name / ARTIFACT,
        "storage": spec.storage,
    }
    return PlannedRun(id=name, label=label, recipe=validate(Recipe, recipe, f"methods.{index}"), search=spec.search,
                      memory_check=spec.memory_check, robustness=tuple(spec.robustness))  # fmt: skip


def slug(text: str) -> str:
    """A name that is safe as a folder; a short digest keeps names with replaced characters distinguishable."""
    plain = re.sub(r"[^A-Za-z0-9_.=]+", "-", text).strip("-.")
    if plain == text:
        return plain
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
