"""The recipe of one training run: YAML, validated; every field can be overridden on the command line."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.bases import variants
from pefttools.compute.config import SelectionConfig, TrainingConfig
from pefttools.data import DataConfig
from pefttools.errors import ConfigError
from pefttools.methods import Method, MethodConfig, methods
from pefttools.objectives import Objective, objectives
from pefttools.objectives.objective import check_together
from pefttools.tasks import Task, tasks
from pefttools.tasks.passages import KnowledgeConfig

ModelT = TypeVar("ModelT", bound=BaseModel)
#: a plugin by name, or by name with options
Choice = str | dict[str, Any]
#: a method, or several that are put on the base together
MethodChoice = Choice | list[Choice]
#: the same, as Python callers may give it
GivenMethod = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
#: an objective, or several, as callers in Python may give it
GivenObjective = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
#: fields of `training` that versions after 0.2 have added -> the value at which they do nothing
_LATER = {"averaging": None, "layer_decay": 1.0}


class Recipe(BaseModel):
    """What is trained on what, how, and where the artifact goes."""

    # `from` is a keyword in Python.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    base: str = Field(description="folder, .gguf file, package: reference or hub id of the base model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    variant: str = Field(
        default_factory=variants.default, description="number format of the base's weights; see `pefttools variants`"
    )
    method: MethodChoice = Field(
        description="name, or a mapping with name and options, or a list of several; see `pefttools methods`"
    )
    task: Choice = Field(default_factory=tasks.default, description="name, or a mapping; see `pefttools tasks`")
    objective: Choice | list[Choice] = Field(
        default_factory=list,
        description="what is minimised beside the task's loss, or instead of it: name, or a mapping with name and "
        "options, or a list of several; see `pefttools objectives`",
    )
    data: DataConfig = Field(description="where the rows come from")
    knowledge: KnowledgeConfig | None = Field(
        None, description="an index of passages that are looked up for each row and added to it"
    )
    parent: Path | None = Field(
        None,
        alias="from",
        description="an artifact of the same base and method: its weights are the start; if it was trained for another "
        "task on texts, those of its adapter, and the head is new",
    )
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig(), description="how the model is trained")
    selection: SelectionConfig = Field(
        default_factory=lambda: SelectionConfig(), description="what chooses the best model, and when to stop"
    )
    seed: int = Field(0, description="seed for initialisation, data order and dropout")
    output: Path = Field(Path("artifacts/adapter"), description="folder of the artifact")
    storage: str = Field(
        "auto",
        pattern="^(auto|float16|float32)$",
        description="auto: float16 if the predictions on the validation rows stay the same, else float32",
    )

    def settings(self) -> dict[str, Any]:
        """Its fields as records and checkpoints keep them: without later ones that are as if they were not there."""
        content = self.model_dump(mode="json")
        if not self.objective:
            del content["objective"]
        if self.knowledge is None:
            del content["knowledge"]
        for name, idle in _LATER.items():
            if content["training"][name] == idle:
                del content["training"][name]
        return content

    def chosen_method(self) -> tuple[Method[Any], MethodConfig]:
        """The method and its validated options."""
        return choose_method(self.method)

    def chosen_task(self) -> Task[Any]:
        """The task with its validated options."""
        return choose_task(self.task)

    def chosen_objectives(self) -> tuple[Objective[Any], ...]:
        """The objectives with their validated options."""
        return choose_objectives(self.objective)


def choose_objectives(choice: GivenObjective, where: str = "objective") -> tuple[Objective[Any], ...]:
    """From a name, a mapping with name and options, or a list of such, to the objectives.

    Raises:
        UnknownNameError: no such objective.
        ConfigError: no such option, a value out of range, or two that can't be used together.
    """
    found = []
    for one in (choice,) if isinstance(choice, str | Mapping) else choice:
        name, options = _split(one, where)
        kind = objectives.get(name)
        found.append(kind(validate(kind.config, options, where)))
    check_together(found)
    return tuple(found)


def method_title(choice: GivenMethod) -> str:
    """Name of a choice of methods that has no label, e.g. ``ln_tuning + lora``."""
    if isinstance(choice, str):
        return choice
    return str(choice.get("name", "?")) if isinstance(choice, Mapping) else " + ".join(map(method_title, choice))


def choose_method(choice: GivenMethod, where: str = "method") -> tuple[Method[Any], MethodConfig]:
    """From a name, a mapping with name and options, or a list of such, to the method and its validated options.

    Raises:
        UnknownNameError: no such method.
        ConfigError: no such option, or a value out of range.
    """
    if not isinstance(choice, str | Mapping):
        each = [_split(one, where) for one in choice]
        choice = {"name": methods.default("several"), "methods": [{"name": name, **options} for name, options in each]}
    name, options = _split(choice, where)
    method = methods.get(name)()
    config = validate(method.config, options, where)
    return method.configured(config), config


def choose_task(choice: Choice, where: str = "task") -> Task[Any]:
    """From a name, or a mapping with name and options, to the task."""
    name, options = _split(choice, where)
    task = tasks.get(name)
    return task(validate(task.config, options, where))


def stored_method(name: str, options: Mapping[str, Any], schema: str, where: str) -> tuple[Method[Any], MethodConfig]:
    """The method of an artifact and its options, whichever version wrote them.

    Args:
        name: of the method.
        options: as stored.
        schema: version of the manifest's schema.
        where: for messages.
    """
    method = methods.get(name)()
    config = method.trained(validate(method.config, method.upgraded(dict(options), schema), where))
    return method.configured(config), config


def stored_task(
    name: str, options: Mapping[str, Any], where: str, calibration: Mapping[str, Any] | None = None
) -> Task[Any]:
    """The task of an artifact, whichever version wrote its options.

    Args:
        name: of the task.
        options: as stored.
        where: for messages.
        calibration: what was chosen on validation.
    """
    kind = tasks.get(name)
    task = kind(validate(kind.config, kind.upgraded(dict(options)), where))
    return task if calibration is None else task.calibrated(dict(calibration))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: ``field.field=value``, the value in YAML.

    Raises:
        ConfigError: no such file, or anything wrong in it.
    """
    return validate(Recipe, read_yaml(path, overrides), str(path))


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML mapping with overrides applied."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain a mapping, not {type(content).__name__}")
    for override in overrides:
        _override(content, override)
    return content


def read_choice(text: str, where: str) -> Choice:
    """A name, or a mapping with name and options in YAML, as it is written on a command line.

    Raises:
        ConfigError: it is neither.
    """
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} {text!r} is not valid YAML: {error}") from error
    if not isinstance(found, str | dict):
        raise ConfigError(f"{where} {text!r}: give a name, or a mapping: '{{name: NAME, option: value}}'")
    return found


def validate(model: type[ModelT], value: Any, where: str) -> ModelT:
    """Validate through pydantic, with messages for people.

    Raises:
        ConfigError: names the field, what is wrong with it, and similar names for a misspelt one.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines, hints = [], []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _fields_at(model, problem["loc"][:-1])
                lines.append(f"{place}: no such field")
                near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=2, cutoff=0.5)
                meant = f"did you mean {' or '.join(near)}? " if near else ""
                hints.append(f"{place}: {meant}known fields: {', '.join(sorted(known))}.")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r})"
                # An error about several fields together names them itself.
                lines.append(f"{place}: {message}{given}" if place else message)
        raise ConfigError(f"{where}: " + "; ".join(lines), hint=" ".join(hints) or None) from error


def _fields_at(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the model that is at a place inside `model`."""
    current: Any = model
    for part in place:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = next((f for name, f in current.model_fields.items() if part in (name, f.alias)), None)
        if field is None:
            continue
        current = field.annotation
        if get_origin(current) in (Union, types.UnionType):
            current = next((one for one in get_args(current) if isinstance(one, type)), None)
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _split(choice: str | Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"{where}: a mapping needs the field 'name'", hint="For example: {name: NAME, option: value}."
        )
    return name, options


def _override(content: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set {override!r}: write it as field.field=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    *parents, last = path.split(".")
    place = content
    for parent in parents:
        inner = place.get(parent)
        if isinstance(inner, str) and parent in ("method", "task", "objective"):
            inner = {"name": inner}  # the short form of a choice
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} has no fields")
        place[parent] = inner
        place = inner
    place[last] = value


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everyone expects."""


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_Loader.add_implicit_resolver("!exponent", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789"))
_Loader.add_constructor("!exponent", _float)
