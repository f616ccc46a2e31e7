"""What a model reads, as numbers that can be changed a little: embeddings of tokens, pixels, features of sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pefttools.sites import transformers_models
from pefttools.tasks.types import Batch

#: what transformers calls inputs that are numbers already
_NUMBERS = ("pixel_values", "input_features", "input_values")
Change = Callable[[torch.Tensor], torch.Tensor]


def number_input(batch: Batch) -> str | None:
    """Name of the input that is numbers already; None: the model reads tokens alone."""
    return next((name for name in _NUMBERS if name in batch), None)


@contextmanager
def changed_input(transformer: nn.Module, batch: Batch, change: Change) -> Iterator[Batch]:
    """Forward passes whose input is changed.

    Tokens are changed as the embedding layer gives them, before positions are added. Virtual tokens do not come from
    there, so they stay as they are. Of an encoder-decoder model what the encoder reads is changed.

    Args:
        transformer: the wrapped model.
        batch: its inputs.
        change: from what is read to what is to be read instead, of the same shape; called once per pass.

    Yields:
        The inputs to run.
    """
    name = number_input(batch)
    if name is not None:
        yield {**batch, name: change(batch[name])}
        return
    shape, seen = batch["input_ids"].shape, False

    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        nonlocal seen
        # A decoder may read by the same layer, after its encoder; choices are read as rows of their own.
        if seen or output.shape[:-1].numel() != shape.numel():
            return None
        seen = True
        return change(output)

    handle = input_embeddings(transformer).register_forward_hook(hook)
    try:
        yield batch
    finally:
        handle.remove()
    if not seen:
        raise RuntimeError("the model did not read its tokens by its input embeddings")


def input_embeddings(transformer: nn.Module) -> nn.Module:
    """The layer that gives embeddings of the tokens that a model, or its encoder, reads."""
    model = transformers_models(transformer)[0]
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    found: nn.Module = model.get_input_embeddings()
    return found


class Texts:
    """Which numbers of a batch's input are of which text, picture or sound.

    Args:
        batch: inputs; padded rows, or texts behind each other in one row.
    """

    def __init__(self, batch: Batch) -> None:
        mask = batch.get("attention_mask")
        #: number of each position's text, ``[rows, tokens]``; None: each row is one
        self.numbers: torch.Tensor | None = None
        #: which positions are read, ``[rows, tokens]``; None: all
        self.read: torch.Tensor | None = None
        self.count = 0
        if number_input(batch) is not None:
            return
        if mask is not None and mask.dim() == 4:  # a layout, see `pefttools.tasks.language.padding_free`
            self.numbers = (batch["position_ids"] == 0).cumsum(-1) - 1
            self.count = mask.shape[2]
        elif mask is not None:
            self.read = mask.flatten(0, -2)

    def of_each(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over each text's numbers, at every place of the text: broadcasts over `values`.

        Args:
            values: ``[rows, tokens, hidden]``, or ``[rows, ...]`` of pixels or features.
        """
        if self.numbers is None:
            return values.flatten(1).sum(1).view(-1, *[1] * (values.dim() - 1))
        sums = values.new_zeros(self.count).index_add(0, self.numbers.flatten(), values.sum(-1).flatten())
        return sums[self.numbers][..., None]

    def largest_of_each(self, values: torch.Tensor) -> torch.Tensor:
        """The largest number of each text, none below 0, as `of_each`."""
        if self.numbers is None:
            return values.flatten(1).amax(1).clamp(min=0).view(-1, *[1] * (values.dim() - 1))
        found = values.new_zeros(self.count)
        found = found.scatter_reduce(0, self.numbers.flatten(), values.amax(-1).flatten(), "amax")
        return found[self.numbers][..., None]

    def without_padding(self, values: torch.Tensor) -> torch.Tensor:
        """The values, 0 where there is padding."""
        return values if self.read is None else values * self.read[..., None].to(values.dtype)

    def norm(self, values: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm of each text, as `of_each`."""
        return self.of_each(values.float().square()).sqrt()
