"""What tasks whose answer is made by a head on the base's states have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pefttools.bases.model_class import TEXT
from pefttools.errors import ConfigError
from pefttools.methods import Target
from pefttools.tasks.task import Task, TaskConfig, TaskModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import Base, BaseVariant
    from pefttools.heads.served import ServedHead

ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class HeadTask(Task[ConfigT]):
    """A task whose answer is what a head makes of the base's states: our own head, or that of transformers' class."""

    #: what transformers may call the base's main input
    reads: ClassVar[frozenset[str]] = TEXT
    #: fields of the base's configuration that must not be as its files say, if it has them
    config_changes: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def head_kind(self, base: Base) -> str:
        """What the options ask for: a kind of `PoolingHead`, or ``model`` for the head of transformers' class."""

    def first_bias(self) -> Sequence[float] | None:
        """What a head of ours adds to each logit before it has learned anything; None if nothing."""
        return None

    def own_head(self, kind: str, hidden: int, labels: Sequence[str]) -> nn.Module:
        """A new head of ours on states of `hidden` numbers."""
        from pefttools.heads.pooling import PoolingHead

        return PoolingHead(kind, hidden, self.outputs(labels), bias=self.first_bias())

    def build(self, base: Base, variant: BaseVariant, labels: Sequence[str], head_kind: str | None = None) -> TaskModel:
        import transformers

        from pefttools.bases.loading import load_transformer
        from pefttools.heads.shell import own_head_modules

        kind = head_kind or self.head_kind(base)
        processor = self.processor(base)
        if kind != "model":
            transformer, missing = load_transformer(
                transformers.AutoModel, base, variant, reads=self.reads, **self.config_changes
            )
            if missing:
                raise ConfigError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(missing[:3])}")
            hidden: int = transformer.config.hidden_size  # type: ignore[union-attr,assignment]
            head = self.own_head(kind, hidden, labels)
            return TaskModel(
                transformer,
                head,
                kind,
                Target(self.name, "FEATURE_EXTRACTION" if self.peft_task_type else ""),
                processor,
            )
        outputs = self.outputs(labels)
        names = list(labels) if len(labels) == outputs else [f"output {number}" for number in range(outputs)]
        transformer, missing = load_transformer(
            getattr(transformers, self.auto_class),
            base,
            variant,
            reads=self.reads,
            new_head=True,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={label: index for index, label in enumerate(names)},
            **self.config_changes,
        )
        self.settle_model(transformer, processor)
        heads = own_head_modules(transformer, missing)
        return TaskModel(transformer, None, kind, Target(self.name, self.peft_task_type, heads), processor)

    def settle_model(self, transformer: nn.Module, processor: Any) -> None:
        """Set what transformers' class with a head must be told about the inputs; does nothing by default."""

    def served_head(
        self, kind: str, state: Mapping[str, torch.Tensor], labels: Sequence[str], like: torch.Tensor
    ) -> ServedHead:
        from pefttools.heads.served import LinearHead

        return LinearHead(kind, dict(state), tuple(labels) if self.one_label else (), like)
