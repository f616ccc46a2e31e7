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
    #: the library whose format its adapter files have, as model cards name it
    library: ClassVar[str] = "pefttools"
    config: ClassVar[type[MethodConfig]]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: learning rate if the recipe gives none, and the middle of a search; see `default_learning_rate`
    learning_rate: ClassVar[float]
    #: why it can't be used at all; None if it can
    why_not: ClassVar[str | None] = None
    #: whether how much it trains depends on the values of the base's weights, so that nothing can be said without them
    needs_weights: ClassVar[bool] = False
    #: names of stored tensors, as regular expressions -> the value at which they have no effect; None if they have
    #: none on their own. Serves to notice an adapter without effect; empty if not known for this method
    neutral: ClassVar[Mapping[str, float | None]] = {}

    def check(self, config: ConfigT, variant: BaseVariant, task: TaskFacts) -> None:
        """Refuse a combination that can't work, before anything is loaded.

        Raises:
            ConfigError: this method, with these options, does not work with the variant or the task.
        """
        if self.why_not is not None:
            raise self.refusal()
        can = self.capabilities
        if can.modalities is not None and task.modality not in can.modalities:
            raise ConfigError(
                f"the method {self.name!r} can't train the task {task.name!r}, whose models read {task.modality}",
                hint=f"It works with: {', '.join(sorted(can.modalities))}.",
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
                f"the method {self.name!r} can't be used with the variant {variant.name!r}",
                hint=f"It can be used with: {', '.join(sorted(can.variants))}.",
            )
        if can.quantized is not None and variant.quantized and variant.name not in can.quantized:
            raise ConfigError(
                f"the method {self.name!r} can't be used with the variant {variant.name!r}: it has no layers for "
                "weights that are stored like this",
                hint=f"Quantized variants that it can be used with: {', '.join(sorted(can.quantized)) or 'none'}.",
            )
        if can.trains == "base" and variant.quantized:
            raise ConfigError(
                f"the method {self.name!r} can't be used with the variant {variant.name!r}: it trains the base's "
                "own weights, which are quantized there",
                hint="Choose a variant that is not quantized; `pefttools variants` lists them.",
            )

    def refusal(self) -> ConfigError:
        """The error for a method that can't be used at all; see `why_not`."""
        return ConfigError(
            f"the method {self.name!r} can't be used: {self.why_not}", hint="`pefttools methods` lists those that can."
        )

    def check_checkpointing(self) -> None:
        """Refuse activations that are recomputed in the backward pass.

        Raises:
            ConfigError: the method can't train like this.
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
            advice = "Serve it on its own, with pefttools.load, or merge it." if self.capabilities.mergeable else None
            raise ConfigError(
                f"an adapter of the method {self.name!r} has no delta form: it can't be pooled, exported or composed",
                hint=advice or "Serve it on its own, with pefttools.load.",
            )

    def check_mergeable(self) -> None:
        """Refuse to fold an adapter into its base if that can't be done.

        Raises:
            ConfigError: it does more than change the base's weights.
        """
        if not self.capabilities.mergeable:
            raise ConfigError(
                f"an adapter of the method {self.name!r} can't be merged: it does more than change the base's weights",
                hint="Use the artifact as it is.",
            )

    def default_learning_rate(self, parameters: int) -> float:
        """Learning rate if a recipe names none, for a base with that many parameters."""
        return self.learning_rate

    def configured(self, config: ConfigT) -> Self:
        """The method as it is with these options, if they determine what it can do."""
        return self

    @classmethod
    def upgraded(cls, options: dict[str, Any], schema: str) -> dict[str, Any]:
        """Options that an artifact stores, as they must be given now to mean the same.

        Args:
            options: as stored.
            schema: version of the manifest's schema, which shows what wrote them; ``1.0`` is that of 0.1.0.
        """
        return options

    @abstractmethod
    def wrap(self, model: nn.Module, config: ConfigT, target: Target) -> nn.Module:
        """Make a transformers model trainable by this method.

        Args:
            model: a frozen transformers model; it may be changed in place.
            config: validated options.
            target: what the task needs.

        Returns:
            The model to train. Of its parameters only the method's own and those of `target.head_modules` require
            gradients. Its forward takes and returns what the transformers model's does.

        Raises:
            TargetError: a module pattern that matches nothing.
        """

    def idle_options(self, config: ConfigT, variant: BaseVariant) -> list[str]:
        """Options that were given and have no effect next to the others or on this variant, each with the reason."""
        return []

    def virtual_tokens(self, config: ConfigT) -> int:
        """Number of positions that the method takes from every text; 0 if it puts nothing before them."""
        return 0

    def check_model(self, config: ConfigT, model: nn.Module) -> None:
        """Refuse a base that the method can't work on, by its structure; called before `wrap`, mostly without weights.

        Args:
            config: validated options.
            model: the transformers model of the task; it may be on the meta device, and must only be inspected.

        Raises:
            ConfigError: says what the model lacks.
        """
        return

    def check_base(self, config: ConfigT, base: Base) -> None:
        """Refuse a base that does not match the options, such as those of a method that builds on saved adapters.

        Args:
            config: validated options.
            base: on disk.

        Raises:
            BaseModelError: it is a different base.
        """
        return

    def decays_to(self, model: nn.Module, config: ConfigT, name: str) -> float | None:
        """Value that weight decay pulls a trained parameter towards: the one at which it has no effect.

        It is never called for biases and norms: they do not decay.

        Args:
            model: the wrapped model.
            config: validated options.
            name: name of the parameter, as in the wrapped model.

        Returns:
            The value; None if no single value is right and the parameter must not decay.
        """
        return 0.0

    def trained(self, config: ConfigT) -> ConfigT:
        """The options that still matter once it is trained: without those that only decide how training starts."""
        return config

    def reads_rows(self, config: ConfigT) -> bool:
        """Whether `prepare` is needed before training begins."""
        return False

    def prepare(self, model: nn.Module, config: ConfigT, passes: Iterable[Pass]) -> None:
        """Called once before training starts afresh: for what is initialised from the training rows.

        Args:
            model: the wrapped model.
            config: validated options.
            passes: one for each batch of training rows, in a random order.
        """
        return

    def rate_factor(self, model: nn.Module, config: ConfigT, name: str) -> float:
        """Factor on the learning rate of a trained parameter, by its name in the wrapped model."""
        return 1.0

    def begin(self, model: nn.Module, config: ConfigT, total_steps: int) -> None:
        """Called once before the first step of training, or of what is left of it.

        Args:
            model: the wrapped model.
            config: validated options.
            total_steps: optimizer steps of the whole training run, including those before a checkpoint.
        """
        return

    def penalty(self, model: nn.Module, config: ConfigT) -> torch.Tensor | None:
        """What is added to the loss of every training step, a scalar; None for nothing."""
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after every optimizer step, while the gradients that it used are still there.

        Args:
            model: the wrapped model.
            step: number of the step, from 1.
        """
        return

    def training_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a resumed training run needs besides the trained parameters, for checkpoints; nothing by default."""
        return {}

    def restore_training_state(self, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Restore what `training_state` gave."""
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
            ConfigError: the method does more than change weights.
        """
        self.check_mergeable()
        raise NotImplementedError(f"the method {self.name!r} declares that it can be merged, but has no merge()")

    def deltas(self, folder: Path, model: nn.Module, config: ConfigT, target: Target) -> AdapterDeltas:
        """The state that `save` wrote, as delta kinds.

        Args:
            folder: the folder that `save` wrote to.
            model: the transformers model of the task, as it is before `wrap`; must only be inspected.
            config: validated options.
            target: what the task needs.

        Raises:
            ConfigError: the method has no deltas.
            ArtifactError: the state does not fit the model.
        """
        self.check_deltas()
        raise NotImplementedError(f"the method {self.name!r} declares that it has deltas, but has no deltas()")

    def describe(self, config: ConfigT) -> dict[str, Any]:
        """Options as they are stored in a manifest."""
        return config.model_dump(mode="json")


methods: Registry[Method[Any]] = Registry("pefttools.methods", "method", base="pefttools.methods:Method")
