"""The contract of a tuning method.

A method says what it is, how it wraps a model, and how its trained state is written, read and merged. Nothing else in
pefttools knows a method by name. See docs/plugin-guide.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pefttools.errors import ConfigError
from pefttools.methods.facts import Capabilities, MethodConfig, Pass, Target, TaskFacts
from pefttools.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.deltas import AdapterDeltas


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class Method(ABC, Generic[ConfigT]):
    """A tuning method. Importing its module must not import torch, so that listing methods stays fast."""

    name: ClassVar[str]
    summary: ClassVar[str]
    #: where the method was published
    paper: ClassVar[str] = ""
    #: the library whose own format the files of its adapters have, as model cards name it
    library: ClassVar[str] = "pefttools"
    config: ClassVar[type[MethodConfig]]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: learning rate where the recipe gives none, and the middle of a search; see `default_learning_rate`
    learning_rate: ClassVar[float]
    #: why it can't be used at all; None: it can
    why_not: ClassVar[str | None] = None
    #: how much it trains depends on the numbers of the base's weights: without them nothing can be said of it
    needs_weights: ClassVar[bool] = False
    #: names of stored tensors, as regular expressions -> the value at which they do nothing; None: they do nothing by
    #: themselves. Lets an adapter without effect be noticed; empty: not known of this method
    neutral: ClassVar[Mapping[str, float | None]] = {}

    def check(self, config: ConfigT, variant: BaseVariant, task: TaskFacts) -> None:
        """Refuse a combination that can't work, before anything is loaded.

        Raises:
            ConfigError: this method, with these options, does not go with the variant or the task.
        """
        if self.why_not is not None:
            raise self.refusal()
        can = self.capabilities
        if can.modalities is not None and task.modality not in can.modalities:
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}, whose models read {task.modality}",
                hint=f"It works on: {', '.join(sorted(can.modalities))}.",
            )
        if can.effect == "virtual_tokens" and task.modality != "text":
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}: it puts virtual tokens before a text, "
                f"and the task's models read {task.modality}"
            )
        if can.trains == "head" and task.why_no_head is not None:
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}: it trains a head, and {task.why_no_head}"
            )
        if can.variants is not None and variant.name not in can.variants:
            raise ConfigError(
                f"the method {self.name!r} can't be used on the base variant {variant.name!r}",
                hint=f"It can be used on: {', '.join(sorted(can.variants))}.",
            )
        if can.quantized is not None and variant.quantized and variant.name not in can.quantized:
            raise ConfigError(
                f"the method {self.name!r} can't be used on the base variant {variant.name!r}: it has no layers for "
                "weights that are stored so",
                hint=f"Quantized variants that it can be used on: {', '.join(sorted(can.quantized)) or 'none'}.",
            )
        if can.trains == "base" and variant.quantized:
            raise ConfigError(
                f"the method {self.name!r} can't be used on the base variant {variant.name!r}: it trains the base's "
                "own weights, which are quantized there",
                hint="Choose a variant that is not quantized; `pefttools variants` lists them.",
            )

    def refusal(self) -> ConfigError:
        """What is said of a method that can't be used at all; see `why_not`."""
        return ConfigError(
            f"the method {self.name!r} can't be used: {self.why_not}", hint="`pefttools methods` lists those that can."
        )

    def check_checkpointing(self) -> None:
        """Refuse activations that are recomputed in the backward pass.

        Raises:
            ConfigError: the method can't train so.
        """
        if not self.capabilities.gradient_checkpointing:
            raise ConfigError(
                f"the method {self.name!r} can't train with gradient checkpointing",
                hint="Set training.gradient_checkpointing=false for it.",
            )

    def check_deltas(self) -> None:
        """Refuse to pool, export or add up adapters of a method that has no deltas.

        Raises:
            ConfigError: it has none.
        """
        if not self.capabilities.deltas:
            advice = "Serve it alone, by pefttools.load, or merge it." if self.capabilities.mergeable else None
            raise ConfigError(
                f"an adapter of the method {self.name!r} has no delta form: it can't be pooled, exported or composed",
                hint=advice or "Serve it alone, by pefttools.load.",
            )

    def check_mergeable(self) -> None:
        """Refuse to fold an adapter into its base where that can't be done.

        Raises:
            ConfigError: it does more than change the base's weights.
        """
        if not self.capabilities.mergeable:
            raise ConfigError(
                f"an adapter of the method {self.name!r} can't be merged: it does more than change the base's weights",
                hint="Use the artifact as it is.",
            )

    def default_learning_rate(self, parameters: int) -> float:
        """Learning rate where a recipe names none, for a base of so many parameters."""
        return self.learning_rate

    def configured(self, config: ConfigT) -> Self:
        """The method as it is with these options, where they decide what it can do."""
        return self

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

    def check_base(self, config: ConfigT, base: Base) -> None:
        """Refuse a base that the options do not go with, as those of a method that builds on saved adapters do not.

        Args:
            config: validated options.
            base: on disk.

        Raises:
            BaseModelError: another base.
        """
        return

    def decays_to(self, model: nn.Module, config: ConfigT, name: str) -> float | None:
        """Value that weight decay pulls a trained parameter towards: the one at which it has no effect.

        Biases and norms are never asked for: they do not decay.

        Args:
            model: the wrapped model.
            config: validated options.
            name: of the parameter, as in the wrapped model.

        Returns:
            The value; None where no single value is right and the parameter is not to decay.
        """
        return 0.0

    def trained(self, config: ConfigT) -> ConfigT:
        """The options that still matter once it is trained: without those of how a training begins."""
        return config

    def reads_rows(self, config: ConfigT) -> bool:
        """Whether `prepare` is needed before a training begins."""
        return False

    def prepare(self, model: nn.Module, config: ConfigT, passes: Iterable[Pass]) -> None:
        """Called once before a training that begins anew: for what starts from the rows that are trained on.

        Args:
            model: the wrapped model.
            config: validated options.
            passes: one for each batch of training rows, in a random order.
        """
        return

    def rate_factor(self, model: nn.Module, config: ConfigT, name: str) -> float:
        """What the learning rate of a trained parameter, by its name in the wrapped model, is multiplied by."""
        return 1.0

    def begin(self, model: nn.Module, config: ConfigT, total_steps: int) -> None:
        """Called once before the first step of a training, or of what is left of one.

        Args:
            model: the wrapped model.
            config: validated options.
            total_steps: optimizer steps of the whole training, those before a checkpoint included.
        """
        return

    def penalty(self, model: nn.Module, config: ConfigT) -> torch.Tensor | None:
        """What is added to the loss of every training step, a scalar; None: nothing."""
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after every optimizer step, while the gradients that it used are still there.

        Args:
            model: the wrapped model.
            step: number of the step, from 1.
        """
        return

    def training_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a training that goes on needs beside the trained parameters, for checkpoints; nothing by default."""
        return {}

    def restore_training_state(self, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Take back what `training_state` gave."""
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
            ConfigError: the method's effect is more than a change of weights.
        """
        self.check_mergeable()
        raise NotImplementedError(f"the method {self.name!r} says that it can be merged, and has no merge()")

    def deltas(self, folder: Path, model: nn.Module, config: ConfigT, target: Target) -> AdapterDeltas:
        """The state that `save` wrote, as delta kinds.

        Args:
            folder: where `save` wrote.
            model: the transformers model of the task, as it is before `wrap`; only to be looked at.
            config: validated options.
            target: what the task asks.

        Raises:
            ConfigError: the method has no deltas.
            ArtifactError: the state does not fit the model.
        """
        self.check_deltas()
        raise NotImplementedError(f"the method {self.name!r} says that it has deltas, and has no deltas()")

    def describe(self, config: ConfigT) -> dict[str, Any]:
        """Options as they stand in a manifest."""
        return config.model_dump(mode="json")


methods: Registry[Method[Any]] = Registry("pefttools.methods", "method", base="pefttools.methods:Method")
