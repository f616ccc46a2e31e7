"""What methods declare, and what they are told of a task."""

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
    """Base of a method's options. Unknown keys are errors; defaults and ranges stand with the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class Capabilities:
    """What a method does to a model, from which follows what it goes with. Checked before anything is loaded.

    Attributes:
        trains: ``adapter``: parameters of its own, and the task's head; ``base``: the base's own weights, so that no
            quantized variant will do; ``head``: nothing but the task's head; ``nothing``: the base stays as it is.
        effect: ``weights``: a change of the base's weights, so that it can be merged; ``modules``: modules of its own;
            ``virtual_tokens``: tokens of its own before a text; ``none``: the base does what it always does.
        modalities: what the models that it works on may read, e.g. ``text``; None: whatever its effect allows.
        variants: names of the base variants that it can stand on; None: whatever it trains allows.
        quantized: names of the quantized ones among them; None: all.
        gradient_checkpointing: it trains with activations recomputed in the backward pass.
        all_inputs: it hands every input of the model on; False: tokens and their mask alone, without
            `token_type_ids`, which tell the texts of a pair apart on BERT-like models.
        left_padding: it gives the same where padding stands before a text, as in a batch that is generated for.
        position_wise: it does the same to a token whatever stands beside it, so that several texts may share a row.
        deltas: its trained state comes down to deltas, so that it can be pooled, exported and added up.
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
        """Whether several texts may stand in one row."""
        return self.position_wise and self.effect != "virtual_tokens"


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
        """Whether answers are texts from the base's own language head."""

    @property
    def why_no_head(self) -> str | None:
        """Why there is no head that could be trained alone; None: there is one."""


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
