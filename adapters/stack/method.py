"""Several methods at once: a list of methods in a recipe, each with its options.

    method: [ln_tuning, {name: lora, r: 4}]
    method: [{name: bottleneck, placement: parallel}, prefix]      mix-and-match, https://arxiv.org/abs/2110.04366

They are applied to the base one after the other, those that put tokens before a text last. Each keeps its own learning
rate and its own files. No two of them may act on the same module: their effects there would depend on each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator

from pefttools.bases import Base, BaseVariant
from pefttools.errors import ArtifactError, ConfigError
from pefttools.files import canonical_json
from pefttools.methods import Capabilities, Method, MethodConfig, Pass, Target, TaskFacts

from ..own import CONFIG
from .parts import Part, files_of, owner, put_on, put_parts, refuse_overlap, save_part, without_head

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class StackOptions(MethodConfig):
    """Options of several methods."""

    methods: list[dict[str, Any]] = Field(min_length=2, description="each a mapping with name and options")

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return [{"name": one} if isinstance(one, str) else one for one in given] if isinstance(given, list) else given


class StackedMethods(Method[StackOptions]):
    """Several methods at once."""

    name = "stack"
    summary = "several methods at once, as a list in the recipe"
    paper = "https://arxiv.org/abs/2110.04366"
    config = StackOptions
    #: of a stack without options; see `default_learning_rate`
    learning_rate = 1e-3

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self.parts = sorted(parts, key=lambda part: part.method.capabilities.effect == "virtual_tokens")
        if self.parts:
            self.capabilities = _together([part.method.capabilities for part in self.parts])  # type: ignore[misc]
            self.needs_weights = any(part.method.needs_weights for part in self.parts)  # type: ignore[misc]

    def configured(self, config: StackOptions) -> Self:
        from pefttools.recipe import choose_method

        return type(self)([Part(*choose_method(one, "method")) for one in config.methods])

    def describe(self, config: StackOptions) -> dict[str, Any]:
        return {"methods": [{"name": part.method.name, **part.method.describe(part.config)} for part in self.parts]}

    def check(self, config: StackOptions, variant: BaseVariant, task: TaskFacts) -> None:
        for part in self.parts:
            part.method.check(part.config, variant, task)
            if part.method.capabilities.trains != "adapter":
                raise ConfigError(
                    f"the method {part.method.name!r} can't be one of several: it trains no parameters of its own",
                    hint="A task's head is trained along with every method.",
                )
        names = [part.method.name for part in self.parts]
        for part in self.parts:
            if names.count(part.method.name) > 1 and not getattr(part.method, "twice", True):
                raise ConfigError(f"the method {part.method.name!r} can't be combined with itself")
        if sum(part.method.capabilities.effect == "virtual_tokens" for part in self.parts) > 1:
            raise ConfigError("two methods that put virtual tokens before a text can't be combined", hint="Choose one.")

    def check_model(self, config: StackOptions, model: nn.Module) -> None:
        for part in self.parts:
            part.method.check_model(part.config, model)
        acting = [part for part in self.parts if part.method.capabilities.effect != "virtual_tokens"]
        refuse_overlap((part, part.sites_on(model)) for part in acting)

    def check_base(self, config: StackOptions, base: Base) -> None:
        for part in self.parts:
            part.method.check_base(part.config, base)

    def idle_options(self, config: StackOptions, variant: BaseVariant) -> list[str]:
        return [line for part in self.parts for line in part.method.idle_options(part.config, variant)]

    def virtual_tokens(self, config: StackOptions) -> int:
        return sum(part.method.virtual_tokens(part.config) for part in self.parts)

    def wrap(self, model: nn.Module, config: StackOptions, target: Target) -> nn.Module:
        return put_parts(model, self.parts, target, lambda part, inner, own: part.method.wrap(inner, part.config, own))

    # Training.

    def default_learning_rate(self, parameters: int) -> float:
        """That of the first one; the others keep their own, see `rate_factor`."""
        return self.parts[0].method.default_learning_rate(parameters) if self.parts else self.learning_rate

    def rate_factor(self, model: nn.Module, config: StackOptions, name: str) -> float:
        part, own = owner(model, name)
        factor = part.method.rate_factor(part.model, part.config, own)
        return factor * part.method.learning_rate / put_on(model)[0].method.learning_rate

    def decays_to(self, model: nn.Module, config: StackOptions, name: str) -> float | None:
        part, own = owner(model, name)
        return part.method.decays_to(part.model, part.config, own)

    def trained(self, config: StackOptions) -> StackOptions:
        from pefttools.recipe import choose_method

        parts = [choose_method(one, "method") for one in config.methods]
        return StackOptions(
            methods=[{"name": method.name, **method.trained(options).model_dump()} for method, options in parts]
        )

    def reads_rows(self, config: StackOptions) -> bool:
        return any(part.method.reads_rows(part.config) for part in self.parts)

    def prepare(self, model: nn.Module, config: StackOptions, passes: Iterable[Pass]) -> None:
        every = list(passes) if self.reads_rows(config) else []
        for part in put_on(model):
            part.method.prepare(part.model, part.config, every)

    def begin(self, model: nn.Module, config: StackOptions, total_steps: int) -> None:
        for part in put_on(model):
            part.method.begin(part.model, part.config, total_steps)

    def penalty(self, model: nn.Module, config: StackOptions) -> Tensor | None:
        found = [part.method.penalty(part.model, part.config) for part in put_on(model)]
        given = [one for one in found if one is not None]
        total: Tensor | None = sum(given[1:], given[0]) if given else None
        return total

    def after_step(self, model: nn.Module, step: int) -> None:
        for part in put_on(model):
            part.method.after_step(part.model, step)

    def training_state(self, model: nn.Module) -> dict[str, Tensor]:
        parts = enumerate(put_on(model))
        return {f"{n}/{key}": t for n, part in parts for key, t in part.method.training_state(part.model).items()}

    def restore_training_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        for number, part in enumerate(put_on(model)):
            own = {key.partition("/")[2]: t for key, t in state.items() if key.startswith(f"{number}/")}
            if own:
                part.method.restore_training_state(part.model, own)

    # What is stored.

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        for number, part in enumerate(put_on(model), 1):
            save_part(part, number, folder, base_id)
        config = {"pefttools_method": self.name, "base_model_name_or_path": base_id}
        (folder / CONFIG).write_text(canonical_json(config), encoding="utf-8")

    def load(self, model: nn.Module, folder: Path, config: StackOptions, target: Target) -> nn.Module:
        written = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("pefttools_method")
        if written != self.name:
            raise ArtifactError(f"{folder / CONFIG} is of the method {written!r}, not {self.name!r}")
        numbers = {id(part): number for number, part in enumerate(self.parts, 1)}

        def put(part: Part, inner: nn.Module, own: Target) -> nn.Module:
            with files_of(numbers[id(part)], folder) as files:
                return part.method.load(inner, files, part.config, own)

        return put_parts(model, self.parts, target, put)

    def merge(self, model: nn.Module) -> nn.Module:
        self.check_mergeable()
        merged = model
        for part in reversed(put_on(model)):
            merged = part.method.merge(part.model)
        return merged

    def deltas(self, folder: Path, model: nn.Module, config: StackOptions, target: Target) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas

        found = AdapterDeltas({})
        for number, part in enumerate(self.parts, 1):
            own = target if number == len(self.parts) else without_head(target)
            with files_of(number, folder) as files:
                deltas = part.method.deltas(files, model, part.config, own)
            found = AdapterDeltas({**found.sites, **deltas.sites}, (*found.virtual, *deltas.virtual))
        return found


def _together(each: list[Capabilities]) -> Capabilities:
    """The capabilities of methods together: those that all of them have."""
    effects = {one.effect for one in each}
    virtual = "virtual_tokens" in effects
    return Capabilities(
        effect="virtual_tokens" if virtual else "weights" if effects == {"weights"} else "modules",
        modalities=_common(one.modalities for one in each),
        variants=_common(one.variants for one in each),
        quantized=_common(one.quantized for one in each),
        gradient_checkpointing=all(one.gradient_checkpointing for one in each),
        all_inputs=all(one.all_inputs for one in each),
        left_padding=all(one.left_padding for one in each),
        position_wise=all(one.position_wise for one in each),
        deltas=all(one.deltas for one in each),
    )


def _common(each: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    named = [one for one in each if one is not None]
    return frozenset.intersection(*named) if named else None
