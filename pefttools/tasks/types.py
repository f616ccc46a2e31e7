"""What tasks, training and pools pass on to one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

#: what a model reads
Modality = Literal["text", "image", "audio", "image-text"]
Example = dict[str, Any]
Batch = dict[str, "torch.Tensor"]
#: in a batch: where its labels are, found before it goes to the GPU, which would otherwise have to be waited for
LABELLED = "labelled"
#: in a batch to train on: the number of each row among the training rows, where an objective asks for it
ROWS = "rows"
#: label of positions without a loss
IGNORE = -100
#: called with the number of examples done and in total
Progress = Callable[[int, int], None]
