"""What methods declare, and what they are told about a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

#: runs a batch of training rows through the model, and gives its loss
Pass = Callable[[], "torch.Tensor"]


class MethodConfig(BaseModel):
    """Base of a method's options. Unknown keys are errors; defaults and ranges are declared with the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Capabilities:
    """What a method does to a model, which determines what it works with. Checked before anything is loaded.

    Attributes:
        trains: ``adapter``: parameters of its own, and the task's head; ``base``: the base's own weights, so no
            quantized variant can be used; ``head``: only the task's head; ``nothing``: the base stays as it is.
        effect: ``weights``: a change of the base's weights, so that it can be merged; ``modules``: modules of its own;
            ``virtual_tokens``: tokens of its own before a text; ``none``: the base does what it does anyway.
        modalities: what the models that it works on may read, e.g. ``text``; None for whatever its effect allows.
        variants: names of the variants that it works with; None for whatever its trained part allows.
        quantized: names of the quantized ones among them; None for all.
        gradient_checkpointing: whether it trains with activations recomputed in the backward pass.
        all_inputs: whether it passes on every input of the model; if not, only tokens and their mask, without
            `token_type_ids`, which distinguish the texts of a pair on BERT-like models.
        left_padding: whether it gives the same results if padding comes before a text, as in a batch for generation.
        position_wise: whether it does the same to a token regardless of the others, so that several texts may share
            a row.
        deltas: whether its trained state can be expressed as deltas, so that it can be pooled, exported and added up.
    """

    trains: Literal["adapter", "base", "head", "nothing"] = "adapter"
    effect: Literal["weights", "modules", "virtual_tokens", "none"] = "modules"
    modalities: frozenset[str] | None = None
    variants: frozenset[str] | None = None
    quantized: frozenset[str] | None = None
    gradient_checkpointing: bool = True
    all_inputs: bool = True
    left_padding: bool = True
    position_wise: bool = True
    deltas: bool = False

    @property
    def mergeable(self) -> bool:
        """Whether its trained state can be folded into the base's own weights."""
        return self.effect in ("weights", "none")

    @property
    def packing(self) -> bool:
        """Whether several texts may be in one row."""
        return self.position_wise and self.effect != "virtual_tokens"


class TaskFacts(Protocol):
    """What a method may know about a task before anything is loaded."""

    @property
    def name(self) -> str:
        """Its name, for messages."""

    @property
    def modality(self) -> str:
        """What the model reads: ``text``, ``image``, ``audio`` or ``image-text``."""

    @property
    def generates(self) -> bool:
        """Whether answers are texts from the base's own language head."""

    @property
    def why_no_head(self) -> str | None:
        """Why there is no head that could be trained alone; None if there is one."""


@dataclass(frozen=True)
class Target:
    """What a task needs from the wrapped model.

    Attributes:
        task: the task's name.
        peft_task_type: PEFT's name of the model class, e.g. ``SEQ_CLS``.
        head_modules: names of modules inside the transformers model that are fully trained: its own task head.
        heads_of_others: such modules that another of several methods trains.
    """

    task: str
    peft_task_type: str
    head_modules: tuple[str, ...] = field(default=())
    heads_of_others: tuple[str, ...] = field(default=())

    def in_head(self, name: str) -> bool:
        """Whether a module belongs to the model's own head, which is trained whole: no method adapts it."""
        heads = tuple(f"{head}." for head in (*self.head_modules, *self.heads_of_others))
        return f"{name}.".startswith(heads)
