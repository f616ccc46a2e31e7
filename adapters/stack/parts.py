"""The methods of a stack: how they are applied to a base, and which parameters belong to which."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.methods import Method, MethodConfig, Target
from pefttools.system import link_or_copy

from ..peft_bridge import PeftMethod
from ..peft_weights import PeftWeights

if TYPE_CHECKING:
    from torch import nn

#: attribute of a model with the methods that were applied to it
_PARTS = "stacked_parts"
#: prefix of PEFT's wrapper to the names of the base
_PREFIX = "base_model.model."


@dataclass(eq=False)
class Part:
    """One of several methods.

    Attributes:
        method: the method.
        config: its options.
        wrapped: the result of its `wrap` or `load`.
        places: where the parameters that it trains are: by their names in `wrapped` at that time, the module and its
            name for them. The next method may rename the module, and a planner may replace the parameters.
        frozen: parameters that it has added but does not train, by their names in `wrapped`.
    """

    method: Method[Any]
    config: MethodConfig
    wrapped: nn.Module | None = None
    places: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)
    frozen: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The model that it was applied to."""
        assert self.wrapped is not None
        return self.wrapped

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The parameters that it trains, by its own names."""
        return {name: module.get_parameter(last) for name, (module, last) in self.places.items()}

    def sites(self, plain: Container[str]) -> list[str]:
        """The modules of the base that it acts on, after it was applied; not the base as a whole.

        Args:
            plain: names of the modules of the base.
        """
        return list(dict.fromkeys(site for name in self.places if (site := _site(name, plain)) is not None))

    def sites_on(self, model: nn.Module) -> list[str]:
        """The modules of a base that it would act on, were it applied alone."""
        if isinstance(self.method, PeftWeights):  # some need the numbers of the weights to be applied
            return self.method.sites(model, self.config)
        return self._on_meta(model).sites({name for name, _ in model.named_modules()})

    def _on_meta(self, model: nn.Module) -> Part:
        """The same, applied to a copy of a base on the meta device."""
        import torch
        from torch import nn

        from pefttools.sites import input_size, is_linear, output_size

        memo: dict[int, Any] = {}
        with torch.device("meta"):
            for module in model.modules():
                own = module._parameters.values()
                if is_linear(module) and any(p is not None and type(p) is not nn.Parameter for p in own):  # packed
                    bias = getattr(module, "bias", None) is not None
                    memo[id(module)] = nn.Linear(input_size(module), output_size(module), bias).requires_grad_(False)
                    continue
                for p in own:
                    if p is not None:
                        memo[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=False)
        base = copy.deepcopy(model, memo)
        # The meta device has no numbers to start from; where a method acts does not depend on them.
        wrapped = self.method.wrap(base, self.method.trained(self.config), Target("", ""))
        return replace(self, wrapped=wrapped, places=_places(wrapped, set()))


Put = Callable[[Part, "nn.Module", Target], "nn.Module"]


def put_parts(model: nn.Module, chosen: Sequence[Part], target: Target, put: Put) -> nn.Module:
    """Apply methods to a base, one after the other.

    Args:
        model: a frozen transformers model.
        chosen: the methods; they are not changed.
        target: what the task requires; the last method trains the model's own head.
        put: applies one of them.

    Returns:
        The result of the last one.

    Raises:
        ConfigError: two of them act on one module.
    """
    plain = {name for name, _ in model.named_modules()}
    known = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    parts: list[Part] = []
    inner = outer = model
    for number, part in enumerate(chosen, 1):
        # PEFT stores the configuration of its adapter there, and would take the next one to be the same.
        inner.__dict__.pop("peft_config", None)
        if isinstance(part.method, PeftMethod):  # which treats layers of adapters with the same name as one adapter
            part.method.adapter = f"part{number}"
            part.method.siblings = tuple(f"part{n}" for n in range(1, len(chosen) + 1) if n != number)
        before = {id(parameter) for parameter in inner.parameters()}
        outer = put(part, inner, target if number == len(chosen) else without_head(target))
        frozen = {name: p for name, p in outer.named_parameters() if not p.requires_grad and id(p) not in before}
        parts.append(replace(part, wrapped=outer, places=_places(outer, known), frozen=frozen))
        known |= {id(parameter) for parameter in parts[-1].own.values()}
        inner = _plain(outer)
    for part in parts:
        for parameter in part.own.values():  # PEFT freezes whatever is not its own
            parameter.requires_grad_(True)
    _activate(outer, [part.method.adapter for part in parts if isinstance(part.method, PeftMethod)])
    refuse_overlap((part, part.sites(plain)) for part in parts)
    object.__setattr__(outer, _PARTS, parts)
    return outer


def _activate(model: nn.Module, adapters: list[str]) -> None:
    """Make each of PEFT's layers use its own adapter.

    PEFT activates the adapter that was added last in all layers of its type. Those of an earlier part of the same type
    have no adapter of that name: they would pass their input on, and never be trained.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = {name for attribute in module.adapter_layer_names for name in getattr(module, attribute, ())}
            own = [name for name in adapters if name in held]
            if own:
                module._active_adapter = own  # `set_adapter` would train all that it holds


def without_head(target: Target) -> Target:
    """The target of a method if another one trains the task head."""
    # PEFT trains the head automatically for task types that it knows.
    return replace(target, head_modules=(), heads_of_others=target.head_modules, peft_task_type="")


def put_on(model: nn.Module) -> list[Part]:
    """The methods that `put_parts` has applied to a model."""
    parts: list[Part] = getattr(model, _PARTS)
    return parts


def owner(model: nn.Module, name: str) -> tuple[Part, str]:
    """The method that a parameter belongs to, and its name there."""
    wanted = model.get_parameter(name)
    return next((part, own) for part in put_on(model) for own, parameter in part.own.items() if parameter is wanted)


class Named:
    """The view of a model that a non-PEFT method needs for saving: what it has added, by its own names."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Those of this part only."""
        return {**self._part.own, **self._part.frozen}.items()

    def modules(self) -> Iterator[nn.Module]:
        """Those of the whole model."""
        return self._part.model.modules()


def save_part(part: Part, number: int, folder: Path, base_id: str) -> None:
    """Write a part's files next to those of the others, with its number as a prefix of their names."""
    with TemporaryDirectory() as name:
        model: Any = part.model if hasattr(part.model, "get_base_model") else Named(part)
        part.method.save(model, Path(name), base_id)
        for path in sorted(Path(name).iterdir()):
            (folder / f"part{number}_{path.name}").write_bytes(path.read_bytes())


@contextmanager
def files_of(number: int, folder: Path) -> Iterator[Path]:
    """A folder in which a part's files have their own names."""
    prefix = f"part{number}_"
    with TemporaryDirectory() as name:
        for path in folder.iterdir():
            if path.name.startswith(prefix):
                link_or_copy(path.resolve(), Path(name) / path.name.removeprefix(prefix))
        yield Path(name)


def _places(model: nn.Module, known: set[int]) -> dict[str, tuple[nn.Module, str]]:
    """Where the trained parameters that are not yet known are."""
    new = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    return {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in new}


def _plain(model: Any) -> nn.Module:
    """The transformers model that PEFT has wrapped."""
    found: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return found


def refuse_overlap(parts: Iterable[tuple[Part, Iterable[str]]]) -> None:
    """Refuse methods that act on the same module.

    Args:
        parts: each with the names of the modules that it acts on.

    Raises:
        ConfigError: names the module.
    """
    seen: dict[str, str] = {}
    for part, sites in parts:
        for site in sites:
            if site in seen:
                raise ConfigError(
                    f"the methods {seen[site]!r} and {part.method.name!r} both act on {site}, where one would "
                    "change what the other does",
                    hint="Exclude the module from the targets of one of them.",
                )
            seen[site] = part.method.name


def _site(parameter: str, plain: Container[str]) -> str | None:
    """The module of the base that a parameter belongs to; None for the base as a whole, as with virtual tokens."""
    parts = parameter.removeprefix(_PREFIX).split(".")
    names = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in plain), None)
