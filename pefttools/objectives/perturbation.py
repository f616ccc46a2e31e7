"""A change of what a model reads, of which the gradient can be taken."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import is_fake

from pefttools.objectives.inputs import Change


class Perturbation:
    """What is added to the model's input, as a tensor whose gradient can be taken.

    Args:
        start: from the input to what is added in the first pass, of the same shape.
    """

    def __init__(self, start: Change) -> None:
        self._start = start
        self._tensor: torch.Tensor | None = None
        self._read: torch.Tensor | None = None

    @property
    def tensor(self) -> torch.Tensor:
        """What was added in the last pass, float32."""
        assert self._tensor is not None, "no pass was run with it"
        return self._tensor

    @property
    def read(self) -> torch.Tensor:
        """What the model would have read without it, in the last pass; float32, without a gradient."""
        assert self._read is not None, "no pass was run with it"
        return self._read

    def move(self, tensor: torch.Tensor) -> None:
        """Add another tensor from now on."""
        self._tensor = tensor.detach().requires_grad_()

    def __call__(self, read: torch.Tensor) -> torch.Tensor:
        self._read = read.detach().float()
        if self._tensor is None:
            with drawn_apart(self._read):
                self.move(self._start(self._read))
        return read + self.tensor.to(read.dtype)


@contextmanager
def drawn_apart(like: torch.Tensor) -> Iterator[None]:
    """Random numbers that follow from those of the pass, but take none of them: its dropout stays that of the others.

    Args:
        like: where they are drawn.
    """
    if is_fake(like):  # only memory is planned
        yield
        return
    on_card = like.device.type == "cuda"
    with torch.random.fork_rng(devices=[like.device] if on_card else []):
        state = torch.cuda.get_rng_state(like.device) if on_card else torch.get_rng_state()
        own = torch.cuda.default_generators[like.get_device()] if on_card else torch.default_generator
        own.manual_seed(zlib.crc32(state.numpy().tobytes()))
        yield
