"""The contract of a tuning method.

A method says what it is, how it wraps a model, and how its trained state is written, read and merged. Nothing else in
pefttools knows a method by name. See docs/plugin-guide.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from pefttools.errors import ConfigError
from pefttools.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from pefttools.bases import BaseVariant
    from pefttools.deltas import AdapterDeltas


class MethodConfig(BaseModel):
    """Base of a method's options. Unknown keys are errors; defaults and ranges stand with the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True)
class Capabilities:
    """What a method can do. Checked before anything is loaded.

    Attributes:
        modalities: what the models that it works on may read, e.g. ``text``; None: anything.
        needs_head: it works only where the task has a head of its own, on the base's states.
        variants: names of the base variants it can stand on; None: every variant.
        mergeable: its trained state can be folded into the base's own weights.
        gradient_checkpointing: it trains with activations recomputed in the backward pass.
        padded_generation: it generates for prompts of different lengths in one batch.
        trains: there is something to train; False for the base as it is.
        pairs: it keeps `token_type_ids`, which sentence pairs need on BERT-like models.
        packing: it treats every token by itself, so that several texts may stand in one row.
        head_only: it trains nothing but the task head, so that its learning rate is the head's.
        mixed_batch: its trained state comes down to deltas, so that a pool can serve it beside other adapters.
    """

    modalities: frozenset[str] | None = None
    needs_head: bool = False
    variants: frozenset[str] | None = None
    mergeable: bool = False
    gradient_checkpointing: bool = True
    pairs: bool = True
    padded_generation: bool = True
    trains: bool = True
    packing: bool = True
    mixed_batch: bool = False
    head_only: bool = False


class TaskFacts(Protocol):
    """What a method may know of a task before anything is loaded."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def modality(self) -> str:
        """What the model reads: ``text``, ``image``, ``audio`` or ``image-text``."""

    @property
    def generates(self) -> bool:
        """Whether answers are texts from the base's own language head, so that no head is trained."""


@dataclass(frozen=True)
class Target:
    """What a task asks of the wrapped model.

    Attributes:
        task: the task's name.
        peft_task_type: PEFT's name of the model class, e.g. ``SEQ_CLS``.
        head_modules: names of modules inside the transformers model that are trained whole: its own task head.
    """

    task: str
    peft_task_type: str
    head_modules: tuple[str, ...] = field(default=())


class Method(ABC, Generic[ConfigT]):
    """A tuning method. Importing its module must not import torch, so that listing methods stays fast."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: where the method was published
    paper: ClassVar[str] = ""
    config: ClassVar[type[MethodConfig]]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: learning rate where the recipe gives none, and the middle of a search; see `default_learning_rate`
    learning_rate: ClassVar[float]
    #: names of stored tensors, as regular expressions -> the value at which they do nothing; None: they do nothing by
    #: themselves. Lets an adapter without effect be noticed; empty: not known of this method
    neutral: ClassVar[Mapping[str, float | None]] = {}

    def check(self, config: ConfigT, variant: BaseVariant, task: TaskFacts) -> None:
        """Refuse a combination that can't work, before anything is loaded.

        Raises:
            ConfigError: this method, with these options, does not go with the variant or the task.
        """
        allowed = self.capabilities
        if allowed.modalities is not None and task.modality not in allowed.modalities:
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}, whose models read {task.modality}",
                hint=f"It works on: {', '.join(sorted(allowed.modalities))}.",
            )
        if allowed.needs_head and task.generates:
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}: it trains a head, and the task has none"
            )
        if allowed.variants is not None and variant.name not in allowed.variants:
            raise ConfigError(
                f"the method {self.name!r} does not go with the base variant {variant.name!r}",
                hint=f"It goes with: {', '.join(sorted(allowed.variants))}.",
            )

    def default_learning_rate(self, parameters: int) -> float:
        """Learning rate where a recipe names none, for a base of so many parameters."""
        return self.learning_rate

    @classmethod
    def upgraded(cls, options: dict[str, Any], schema: str) -> dict[str, Any]:
        """Options that an artifact stores, as they must be given now to mean the same.

        Args:
            options: as stored.
            schema: version of the manifest's schema, which tells what wrote them; ``1.0`` is that of 0.1.0.
        """
        return options

    @abstractmethod
    def wrap(self, model: nn.Module, config: ConfigT, target: Target) -> nn.Module:
        """Make a transformers model trainable by this method.

        Args:
            model: a frozen transformers model; it may be changed in place.
            config: validated options.
            target: what the task asks.

        Returns:
            The model to train. Of its parameters only the method's own and those of `target.head_modules` require
            gradients. Its forward takes and returns what the transformers model's does.

        Raises:
            TargetError: a module pattern that matches nothing.
        """

    def idle_options(self, config: ConfigT, variant: BaseVariant) -> list[str]:
        """Options that were given and have no effect beside the others or on this variant, each with the reason."""
        return []

    def virtual_tokens(self, config: ConfigT) -> int:
        """Number of positions that the method takes from every text; 0 where it puts nothing before them."""
        return 0

    def check_model(self, config: ConfigT, model: nn.Module) -> None:
        """Refuse a base that the method can't work on, by its structure; called before `wrap`, mostly without weights.

        Args:
            config: validated options.
            model: the transformers model of the task; it may be on the meta device, and is only to be looked at.

        Raises:
            ConfigError: says what the model lacks.
        """
        return

    def decays_to(self, config: ConfigT, name: str) -> float | None:
        """Value that weight decay pulls a trained parameter towards: the one at which it has no effect.

        Biases and norms are never asked for: they do not decay.

        Args:
            config: validated options.
            name: of the parameter, as in the wrapped model.

        Returns:
            The value; None where no single value is right and the parameter is not to decay.
        """
        return 0.0

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after every optimizer step; does nothing by default."""
        return

    @abstractmethod
    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        """Write the trained state of a wrapped model as files in `folder` (safetensors, never pickle)."""

    @abstractmethod
    def load(self, model: nn.Module, folder: Path, config: ConfigT, target: Target) -> nn.Module:
        """Wrap a fresh base model with the state that `save` wrote.

        Raises:
            ArtifactError: the state does not fit the model.
        """

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the trained state into the base and return the plain transformers model.

        Raises:
            ConfigError: the method declares ``mergeable=False``.
        """
        raise ConfigError(
            f"the method {self.name!r} can't be merged: its effect is no change of the base's weights",
            hint="Use the artifact as it is.",
        )

    def deltas(self, folder: Path, model: nn.Module, config: ConfigT, target: Target) -> AdapterDeltas:
        """The state that `save` wrote, as delta kinds; a method with ``mixed_batch=True`` has it.

        Args:
            folder: where `save` wrote.
            model: the transformers model of the task, as it is before `wrap`; only to be looked at.
            config: validated options.
            target: what the task asks.

        Raises:
            ConfigError: the method declares ``mixed_batch=False``.
            ArtifactError: the state does not fit the model.
        """
        raise ConfigError(
            f"an adapter of the method {self.name!r} can't be taken apart: served beside others, exported or added up",
            hint="It can be evaluated, asked and, where the method allows it, merged.",
        )

    def describe(self, config: ConfigT) -> dict[str, Any]:
        """Options as they stand in a manifest."""
        return config.model_dump(mode="json")


methods: Registry[Method[Any]] = Registry("pefttools.methods", "method", base="pefttools.methods:Method")
