"""Which cells are tried, and with which checks: compiling takes longer than all the others together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pefttools.methods import methods as known_methods

from .cells import CHECKS, COMPILED
from .families import WORDS

#: an encoder and a decoder: every method is compiled on them, and tried in every number format
_BOTH = ("bert", "llama")
#: the method that is compiled on every family
_COMPILED_EVERYWHERE = "lora"
#: methods of different kinds, which are tried in every number format on every family
_EVERY_FORMAT = ("lora", "ia3", "oft", "bottleneck", "prefix", "prompt", "ln_tuning", "full")
#: values for options without a default, for the tiny models
_GIVEN: dict[str, dict[str, Any]] = {
    "fusion": {"fused": [{"size": 8}, {"size": 4, "activation": "relu"}]},
    "trainable_tokens": {"tokens": list(WORDS)},
    "stack": {"methods": [{"name": "ln_tuning"}, {"name": "lora"}]},
}


@dataclass(frozen=True)
class Task:
    """One cell to be tried.

    Attributes:
        method: name and options.
        family: of the model.
        variant: number format of the base.
        checks: names of the checks.
    """

    method: Mapping[str, Any]
    family: str
    variant: str
    checks: tuple[str, ...]

    @property
    def title(self) -> str:
        """The method's name, with the options that were given."""
        name = str(self.method["name"])
        given = {key: value for key, value in self.method.items() if key != "name"}
        return name if given == _GIVEN.get(name, {}) else f"{name} {json.dumps(given, sort_keys=True)}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it."""
        return self.title, self.family, self.variant


def choices(names: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Methods with their required options, and why others can't be tried.

    Args:
        names: of registered methods.

    Returns:
        Methods that can be tried; name -> reason of those that can't.
    """
    able: list[dict[str, Any]] = []
    unable: dict[str, str] = {}
    for name in names:
        plugin = known_methods.get(name)
        given = _GIVEN.get(name, {})
        fields = plugin.config.model_fields
        needed = [option for option, one in fields.items() if one.is_required() and option not in given]
        if plugin.why_not is not None:
            unable[name] = plugin.why_not
        elif needed:
            unable[name] = f"it has no default for {', '.join(needed)}"
        else:
            able.append({"name": name, **given})
    return able, unable


def full_grid(
    methods: Sequence[Mapping[str, Any]], families: Sequence[str], variants: Sequence[str], *, compiled: bool = True
) -> Iterator[Task]:
    """Every method on every family in the first number format; in the others all methods on two families, some on all.

    If neither of those two is among the families, as with the user's own model, everything is tried on all of them.
    """
    both = [one for one in _BOTH if one in families] or list(families)
    for family in families:
        for variant in variants:
            for method in methods:
                name = method["name"]
                if variant != variants[0] and family not in both and name not in _EVERY_FORMAT:
                    continue
                compiles = compiled and variant == variants[0] and (family in both or name == _COMPILED_EVERYWHERE)
                yield Task(method, family, variant, tuple(one for one in CHECKS if compiles or one != COMPILED))


def slice_of(tasks: Sequence[Task]) -> list[Task]:
    """A part that covers every method and every family at least once; nothing is compiled in it."""
    methods = list(dict.fromkeys(task.key[0] for task in tasks))
    families = list(dict.fromkeys(task.family for task in tasks))
    pairs = {
        (methods[turn % len(methods)], families[turn % len(families)])
        for turn in range(max(len(methods), len(families)))
    }
    return [
        Task(task.method, task.family, task.variant, tuple(one for one in task.checks if one != COMPILED))
        for task in tasks
        if task.variant == tasks[0].variant and (task.key[0], task.family) in pairs
    ]
