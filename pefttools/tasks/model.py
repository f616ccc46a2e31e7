"""What a task may use of the model that it is trained and evaluated with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pefttools.methods import Capabilities
from pefttools.tasks.types import Batch, Example

if TYPE_CHECKING:
    import torch
    from torch import nn


class Model(Protocol):
    """A base that a method has wrapped; `pefttools.tuned.TunedModel` is one."""

    @property
    def transformer(self) -> nn.Module:
        """The wrapped transformers model."""

    @property
    def processor(self) -> Any:
        """What encodes rows and pads batches, as `Task.processor` loads it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the head's outputs."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def quantized(self) -> bool:
        """Whether the base's weights are stored in only a few bits."""

    @property
    def capabilities(self) -> Capabilities:
        """What its method does."""

    def of_head(self) -> set[str]:
        """Names of the trained parameters that are the head's."""

    def run(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits of encoded examples, in eval mode and without gradients."""

    def run_batch(self, batch: Batch) -> torch.Tensor:
        """Logits of a batch, in eval mode and without gradients."""

    def generate(self, inputs: Batch, *, ends: Collection[int] = (), **options: Any) -> torch.Tensor:
        """Greedy continuation of prompts: the new tokens only, ``[rows, new]``."""

    def inference_mode(self) -> AbstractContextManager[None]:
        """In eval mode and without gradients."""

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision, if the model uses it."""
