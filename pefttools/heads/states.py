"""What the base gave for a batch, read row by row."""

from __future__ import annotations

from functools import cached_property

import torch
from torch._subclasses.fake_tensor import is_fake

from pefttools.heads.pooling import pool


class BatchStates:
    """What the base gave for a batch.

    Args:
        states: hidden states ``[rows, prompt + tokens, hidden]``.
        logits: of the language head, ``[rows, prompt + tokens, vocabulary]``, if the call asked for them.
        input_ids: ``[rows, tokens]``; None if what was read is not text.
        mask: which tokens are not padding, ``[rows, tokens]``.
        prompt_mask: which places before the tokens hold a prompt's virtual tokens, ``[rows, prompt]``; None if none do.
        own_pooled: what the base made of a row's states itself, ``[rows, hidden]``; None if nothing.
        pooling_mask: as `mask`, for `pooled`; None for the same.
    """

    def __init__(
        self,
        states: torch.Tensor,
        logits: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        mask: torch.Tensor,
        prompt_mask: torch.Tensor | None = None,
        own_pooled: torch.Tensor | None = None,
        pooling_mask: torch.Tensor | None = None,
    ) -> None:
        self.prompt = 0 if prompt_mask is None else prompt_mask.shape[1]
        self._prompt_mask = prompt_mask
        self._states = states
        self._logits = logits
        self._ids = input_ids
        self._mask = mask
        self._own_pooled = own_pooled
        self._pooling_mask = mask if pooling_mask is None else pooling_mask
        self._pooled: dict[str, torch.Tensor] = {}

    @cached_property
    def _real(self) -> list[slice | torch.Tensor]:
        """Per row, where its tokens are: usually one after the other. Looked up for all rows at once."""
        if is_fake(self._mask):  # without values: as many as there can be
            return [slice(None)] * len(self._mask)
        real = self._mask.bool()
        places = torch.arange(real.shape[1], device=real.device)
        begins = real.int().argmax(1)
        ends = begins + real.sum(1)
        closed = (real == ((places >= begins[:, None]) & (places < ends[:, None]))).all(1)
        found = torch.stack([begins, ends, closed.long()], dim=1).tolist()
        return [slice(a, b) if whole else real[row] for row, (a, b, whole) in enumerate(found)]

    @cached_property
    def _prompts(self) -> list[int]:
        """Per row, the number of its prompt's virtual tokens, which are the last of all that there is room for."""
        assert self._prompt_mask is not None
        if is_fake(self._prompt_mask):
            return [self.prompt] * len(self._prompt_mask)
        lengths: list[int] = self._prompt_mask.sum(1).tolist()
        return lengths

    def tokens(self, row: int) -> torch.Tensor:
        """Hidden states of a row's tokens, ``[tokens, hidden]``."""
        return self._states[row, self.prompt :][self._real[row]]

    def whole(self, row: int) -> torch.Tensor:
        """The same, with those of a prompt's virtual tokens before them."""
        if self._prompt_mask is None or not self.prompt:
            return self.tokens(row)
        return torch.cat([self._states[row, self.prompt - self._prompts[row] : self.prompt], self.tokens(row)])

    def input_ids(self, row: int) -> torch.Tensor | None:
        """A row's tokens; None if it is not text."""
        return None if self._ids is None else self._ids[row][self._real[row]]

    def own_pooled(self, row: int) -> torch.Tensor | None:
        """What the base made of a row's states itself, ``[hidden]``."""
        return None if self._own_pooled is None else self._own_pooled[row]

    def language(self, row: int) -> torch.Tensor:
        """The language head's logits of a row's tokens, ``[tokens, vocabulary]``."""
        assert self._logits is not None
        return self._logits[row, self.prompt :][self._real[row]]

    def pooled(self, kind: str, dtype: torch.dtype) -> torch.Tensor:
        """All rows' states pooled to one vector each, ``[rows, hidden]``."""
        if kind not in self._pooled:
            self._pooled[kind] = pool(self._states[:, self.prompt :].to(dtype), self._pooling_mask, kind)
        return self._pooled[kind]
