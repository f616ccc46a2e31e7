"""The methods of a stack: how they are put on a base, and which parameters are whose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError
from pefttools.methods import Method, MethodConfig, Target

from ..peft_bridge import PeftMethod

if TYPE_CHECKING:
    from torch import nn

#: where a model keeps what was put on it
_PARTS = "stacked_parts"
#: what PEFT's wrapper puts before the names of the base
_PREFIX = "base_model.model."


@dataclass(eq=False)
class Part:
    """One of several methods.

    Attributes:
        method: the method.
        config: its options.
        wrapped: what its `wrap` or `load` gave.
        places: where the parameters are that it trains: by their names in `wrapped` at that time, the module and its
            name for them. The next method may give the module another name, and a planner other parameters.
        frozen: parameters that it has added and does not train, by their names in `wrapped`.
    """

    method: Method[Any]
    config: MethodConfig
    wrapped: nn.Module | None = None
    places: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)
    frozen: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """What it was put on."""
        assert self.wrapped is not None
        return self.wrapped

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The parameters that it trains, as it has named them."""
        return {name: module.get_parameter(last) for name, (module, last) in self.places.items()}

    def alone(self, model: nn.Module) -> Part:
        """The same, put on a copy of a base without its numbers."""
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
        # The meta device has no numbers to begin from; where it acts does not depend on them.
        wrapped = self.method.wrap(base, self.method.trained(self.config), Target("", ""))
        return replace(self, wrapped=wrapped, places=_places(wrapped, set()))


Put = Callable[[Part, "nn.Module", Target], "nn.Module"]


def put_parts(model: nn.Module, chosen: Sequence[Part], target: Target, put: Put) -> nn.Module:
    """Put methods on a base, one after the other.

    Args:
        model: a frozen transformers model.
        chosen: the methods; they stay as they are.
        target: what the task asks; the last method trains the model's own head.
        put: puts one on.

    Returns:
        What the last one gave.

    Raises:
        ConfigError: two of them act on one module.
    """
    plain = {name for name, _ in model.named_modules()}
    known = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    parts: list[Part] = []
    inner = outer = model
    for number, part in enumerate(chosen, 1):
        # PEFT keeps the configuration of what it has put on a model there, and would take the next one for the same.
        inner.__dict__.pop("peft_config", None)
        if isinstance(part.method, PeftMethod):  # which takes layers of adapters of one name for one adapter
            part.method.adapter = f"part{number}"
            part.method.beside = tuple(f"part{n}" for n in range(1, len(chosen) + 1) if n != number)
        before = {id(parameter) for parameter in inner.parameters()}
        outer = put(part, inner, target if number == len(chosen) else without_head(target))
        frozen = {name: p for name, p in outer.named_parameters() if not p.requires_grad and id(p) not in before}
        parts.append(replace(part, wrapped=outer, places=_places(outer, known), frozen=frozen))
        known |= {id(parameter) for parameter in parts[-1].own.values()}
        inner = _plain(outer)
    for part in parts:
        for parameter in part.own.values():  # PEFT freezes whatever is not its own
            parameter.requires_grad_(True)
    refuse_overlap(parts, plain)
    object.__setattr__(outer, _PARTS, parts)
    return outer


def without_head(target: Target) -> Target:
    """What a method is told whose task head another one trains."""
    # Of a task that PEFT knows it trains the head by itself.
    return replace(target, head_modules=(), peft_task_type="")


def put_on(model: nn.Module) -> list[Part]:
    """What `put_parts` has put on a model."""
    parts: list[Part] = getattr(model, _PARTS)
    return parts


def owner(model: nn.Module, name: str) -> tuple[Part, str]:
    """Whose a parameter is, and the name it has there."""
    wanted = model.get_parameter(name)
    return next((part, own) for part in put_on(model) for own, parameter in part.own.items() if parameter is wanted)


class Named:
    """What a method that PEFT lacks asks of a model when it is saved: what it has added, as it has named it."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Of this part alone."""
        return {**self._part.own, **self._part.frozen}.items()

    def modules(self) -> Iterator[nn.Module]:
        """Of the whole model."""
        return self._part.model.modules()


def save_part(part: Part, number: int, folder: Path, base_id: str) -> None:
    """Write a part's files beside those of the others, with its number before their names."""
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
                (Path(name) / path.name.removeprefix(prefix)).symlink_to(path.resolve())
        yield Path(name)


def _places(model: nn.Module, known: set[int]) -> dict[str, tuple[nn.Module, str]]:
    """Where the trained parameters are that are not known yet."""
    new = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    return {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in new}


def _plain(model: Any) -> nn.Module:
    """The transformers model that PEFT has wrapped."""
    found: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return found


def refuse_overlap(parts: Iterable[Part], plain: set[str]) -> None:
    """Refuse methods that act on one module.

    Args:
        parts: put on a model, together or each alone.
        plain: names of the modules of the base.

    Raises:
        ConfigError: names the module.
    """
    seen: dict[str, str] = {}
    for part in parts:
        for site in dict.fromkeys(_site(name, plain) for name in part.places):
            if site is None:
                continue
            if site in seen:
                raise ConfigError(
                    f"the methods {seen[site]!r} and {part.method.name!r} both act on {site}, where the one would "
                    "change what the other does",
                    hint="Leave the module to one of them, by the targets of the other.",
                )
            seen[site] = part.method.name


def _site(parameter: str, plain: Mapping[str, Any] | set[str]) -> str | None:
    """The module of the base that a parameter belongs to; None: to the base as a whole, as virtual tokens do."""
    parts = parameter.removeprefix(_PREFIX).split(".")
    names = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in plain), None)
