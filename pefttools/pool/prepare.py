"""From an artifact to what a pool can hold: verified, as deltas at the pool's own sites, with its head."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.fitting import Fitting
from pefttools.artifact.load import check_base
from pefttools.artifact.manifest import TaskEntry
from pefttools.artifact.reading import Held, hold_weights
from pefttools.artifact.save import HEAD
from pefttools.artifact.signing import Signers
from pefttools.bases import variants
from pefttools.bases.model_class import named_class
from pefttools.building import check_combination
from pefttools.deltas import AdapterDeltas, DeltaKind, SiteDelta
from pefttools.deltas.weights import read_state
from pefttools.errors import BaseModelError, ConfigError
from pefttools.heads.served import LanguageHead, ServedHead
from pefttools.heads.shell import HeadShell
from pefttools.methods import Method, MethodConfig, Target
from pefttools.pool.base import ServedBase
from pefttools.pool.introduced import unseen_passages
from pefttools.recipe import stored_method
from pefttools.tasks import Task


@dataclass(frozen=True)
class PreparedAdapter:
    """An artifact ready for a pool.

    Attributes:
        method: its method.
        deltas: deltas at sites of the pool's model.
        head: head that answers for its rows.
        task: formats its rows as in training.
        processor: encodes them; for texts, the pool's tokenizer.
        labels: label names of the task.
        roles: column roles of its training data; empty if the artifact does not record them.
        digest: digest of the artifact's manifest.
        passages: what it was trained with that its rows don't show, in words; None if nothing.
    """

    method: Method[Any]
    deltas: AdapterDeltas
    head: ServedHead
    task: Task[Any]
    processor: Any
    labels: tuple[str, ...]
    roles: frozenset[str] = frozenset()
    digest: str = ""
    passages: str | None = None

    def without_deltas(self) -> PreparedAdapter:
        """The same once its weights have been copied, so that they are not held twice."""
        return replace(self, deltas=AdapterDeltas({}))


class Preparer:
    """Prepares artifacts for one base.

    Args:
        served: the pool's base.
        signers: whose signature artifacts must have; None if none is required.
    """

    def __init__(self, served: ServedBase, signers: Signers | None = None) -> None:
        self.served = served
        self._signers = signers
        self._names: dict[int, str] = {id(module): name for name, module in served.model.named_modules()}
        #: the classes with a head of their own that have been needed, by the name of their auto class
        self._shells: dict[str, HeadShell] = {}
        self._fitting = Fitting(served.base)
        #: by the task's name and `processor_key`
        self._processors: dict[tuple[str, Hashable], Any] = {}

    def prepare(self, folder: Path) -> PreparedAdapter:
        """Verify an artifact and take it apart.

        Raises:
            ArtifactError: it is damaged.
            BaseModelError: it belongs to a different base.
            ConfigError: its method or its task can't be served in a pool.
        """
        with hold_weights(folder, self._signers) as held:
            return self._prepare(held, folder)

    def _prepare(self, held: Held, folder: Path) -> PreparedAdapter:
        manifest = held.manifest
        method, config = stored_method(
            manifest.method.name, manifest.method.config, manifest.schema_version, str(folder)
        )
        method.check_deltas()
        check_base(manifest, self.served.base)
        task = manifest.task.stored(str(folder))
        if task.modality != self.served.modality:
            raise ConfigError(
                f"the task {task.name!r} can't be served in a pool of {self.served.base.id!r}: its models read "
                f"{task.modality}, the base {self.served.modality}",
                hint="Use it alone, with pefttools.load.",
            )
        if not task.servable:
            raise ConfigError(
                f"the task {task.name!r} can't be served in a pool", hint="Use it alone, with pefttools.load."
            )
        check_combination(method, config, variants.get(self.served.variant)(), task)
        self._fitting.check(held.folder, manifest)
        warn_without_effect(held.folder, manifest, folder)
        return replace(
            self.to_deltas(held.folder, manifest.task, method, config),
            digest=held.digest,
            passages=unseen_passages(manifest),
        )

    def to_deltas(self, folder: Path, entry: TaskEntry, method: Method[Any], config: MethodConfig) -> PreparedAdapter:
        """Deltas and head from the files that `write_weights` wrote.

        Args:
            folder: folder of those files.
            entry: the task.
            method: the method.
            config: its options.

        Raises:
            ConfigError: the task can't be served in a pool.
        """
        served = self.served
        task = entry.stored(str(folder))
        labels = tuple(entry.labels)
        if not served.gives_states if not task.encoder_decoder else not served.encoder_decoder:
            kind = "writes texts with its own decoder" if served.encoder_decoder else "has no decoder of its own"
            raise ConfigError(
                f"the task {entry.name!r} can't be served in a pool of {served.base.id!r}, which {kind}",
                hint="Use it alone, with pefttools.load.",
            )
        # Names in the files are relative to the transformers model of the task: here, one around the pool's backbone.
        model: nn.Module
        head: ServedHead | None
        if entry.head != "model":
            model = served.backbone  # what transformers' AutoModel gave in training
            deltas = method.deltas(folder, model, config, Target(entry.name, "FEATURE_EXTRACTION"))
            like = next(served.backbone.parameters())
            head = task.served_head(entry.head, read_state(folder / HEAD, model), labels, like)
            if head is None:
                raise ConfigError(f"the task {entry.name!r} can't be served in a pool: it has no served_head")
        elif task.generates:
            if (why := served.why_not_generated()) is not None:
                raise ConfigError(f"{why}, as the task {entry.name!r} does")
            model = served.model
            deltas = method.deltas(folder, model, config, Target(entry.name, task.peft_task_type))
            head = LanguageHead()
        else:
            shell = self._shell(task)
            model = shell.named
            head, deltas = shell.head(
                method.deltas(folder, model, config, shell.target), labels if task.one_label else ()
            )
        return PreparedAdapter(
            method, self._renamed(deltas, model), head, task, self.processor(task), labels, frozenset(entry.columns)
        )

    def processor(self, task: Task[Any]) -> Any:
        """The processor for a task's rows; adapters that need the same one share it."""
        if task.modality == "text":
            return self.served.tokenizer
        key = (task.name, task.processor_key())
        if key not in self._processors:
            self._processors[key] = task.processor(self.served.base)
        return self._processors[key]

    def _renamed(self, deltas: AdapterDeltas, model: nn.Module) -> AdapterDeltas:
        """Sites by their names in the pool's model."""

        def name(site: str) -> str:
            try:
                return self._names[id(model.get_submodule(site))]
            except (AttributeError, KeyError):
                raise ConfigError(
                    f"the adapter acts at {site}, which is not a module of the pool's base model"
                ) from None

        def renamed(part: DeltaKind) -> DeltaKind:
            return part if part.reads is None else part.reading(name(part.reads))

        return replace(
            deltas, sites={name(site): SiteDelta(*map(renamed, delta)) for site, delta in deltas.sites.items()}
        )

    def _shell(self, task: Task[Any]) -> HeadShell:
        """The class of transformers with the task's head, around the pool's backbone."""
        import transformers

        if not task.auto_class:
            raise ConfigError(f"the task {task.name!r} can't be served in a pool: it has no auto_class")
        if task.auto_class not in self._shells:
            config = self.served.config
            try:
                model_class = named_class(getattr(transformers, task.auto_class), config)
            except BaseModelError as error:
                raise ConfigError(f"{self.served.base.id!r} has no model class for the task {task.name!r}") from error
            if self.served.tokenizer is not None:
                config = type(config).from_dict(
                    {**config.to_dict(), "pad_token_id": self.served.tokenizer.pad_token_id}
                )
            self._shells[task.auto_class] = HeadShell(
                model_class, config, self.served.backbone, self.served.missing,
                peft_task_type=task.peft_task_type, per_token=task.per_token,
            )  # fmt: skip
        return self._shells[task.auto_class]
