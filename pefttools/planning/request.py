"""From a base or a recipe, and options given along with it, to what is to be planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pefttools.bases import variants as all_variants
from pefttools.errors import ConfigError
from pefttools.methods import methods as all_methods
from pefttools.planning.device import CARDS, Device
from pefttools.planning.plan import Choice, Planned, Shape, combined
from pefttools.recipe import GivenMethod, Recipe, load_recipe, read_yaml
from pefttools.tasks import tasks as all_tasks
from pefttools.tasks.size_unit import TOKENS

_CHECKPOINTING = {"false": False, "true": True, "selective": "selective"}


@dataclass(frozen=True)
class PlanRequest:
    """What is to be planned.

    Attributes:
        base: where the base comes from.
        planned: each combination of method and variant of the base.
        shape: shape of the training run.
        device: whose kernels and allocator are assumed.
    """

    base: str
    planned: tuple[Planned, ...]
    shape: Shape
    device: Device

    @property
    def rows(self) -> str:
        """What a batch is made of, in the unit of the task: ``rows of 128 tokens``."""
        planned = self.planned[0]
        task = planned.chosen_task()
        if task.sized_by is None:
            return "rows"
        size, unit = self.shape.length, task.size_unit
        if unit != TOKENS:
            size = task.padded_size(size, task.processor(planned.base))
        return f"rows of {unit.shown(size):g} {unit.name}"

    @property
    def cards(self) -> list[Device]:
        """The cards to find the largest fit for: the device, or all known cards if it is not one of them."""
        if self.device.memory is not None:
            return [self.device]
        # Cards without bfloat16 compute in a different format from the others: they must be selected by name.
        return [card for card in CARDS.values() if card.bfloat16]


def resolve_request(
    source: str,
    task: Choice | None,
    methods: Sequence[GivenMethod] | None,
    variants: Sequence[str] | None,
    labels: int,
    overrides: Sequence[str],
    shape: Mapping[str, Any],
    device: Device,
) -> PlanRequest:
    """A request; what is None or missing comes from the recipe if `source` is one, otherwise from the defaults.

    Args:
        source: a base, or the path of a recipe.
        task: see `plan`.
        methods: see `plan`.
        variants: see `plan`.
        labels: number of labels.
        overrides: overrides of the recipe's fields.
        shape: fields of `Shape`.
        device: whose kernels and allocator are assumed.

    Raises:
        ConfigError: an invalid value.
    """
    given = dict(shape)
    if isinstance(given.get("gradient_checkpointing"), str):
        text = given["gradient_checkpointing"]
        if text not in _CHECKPOINTING:
            raise ConfigError(f"gradient checkpointing must be false, true or selective, not {text!r}")
        given["gradient_checkpointing"] = _CHECKPOINTING[text]
    base, objective = source, None
    if source.endswith((".yaml", ".yml")):
        if "methods" in read_yaml(Path(source)):
            raise ConfigError(
                f"{source} is a comparison, not a recipe", hint="Give its base, with --methods and --variants."
            )
        recipe = load_recipe(Path(source), overrides)
        base = recipe.base
        task = task or recipe.task
        objective = recipe.objective
        methods = methods or [recipe.method]
        variants = variants or [recipe.variant]
        given = {**_shape_of(recipe), **given}
    planned = combined(
        base,
        task or all_tasks.default(),
        methods or [all_methods.default()],
        variants or [all_variants.default()],
        labels,
        device,
    )
    if objective:
        planned = tuple(replace(one, objective=objective) for one in planned)
    return PlanRequest(base, planned, Shape(**given), device)


def _shape_of(recipe: Recipe) -> dict[str, Any]:
    """The fields of `Shape` that a recipe determines."""
    training = recipe.training
    return {
        "batch_size": training.batch_size,
        "length": recipe.chosen_task().longest_input or 1,
        "accumulation": training.microbatches,
        "eval_batch_size": training.eval_batch_size,
        "precision": training.precision,
        "gradient_checkpointing": training.gradient_checkpointing,
        "optimizer": training.optimizer,
        "averaged": training.averaging is not None,
    }
