"""Modes that see every operation on tensors."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):
    """A dispatch mode without torch's guard against compilation inside it, which costs more than most operations."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
