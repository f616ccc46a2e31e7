"""Virtual tokens: what comes before a text, with weights of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from pefttools.deltas.kind import Family, padded


class VirtualTokens(ABC):
    """Virtual tokens of one kind. Each is a frozen dataclass of one tensor."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def states(self) -> torch.Tensor:
        """``[..., length, size]``."""

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return self.states.shape[-2]

    def norm(self) -> float:
        """Frobenius norm of its states."""
        return float(torch.linalg.vector_norm(self.states))

    def family(self) -> Family:
        """Which others it shares slots with in a pool."""
        return Family(self.name, padded(self.length))


@dataclass(frozen=True)
class Prefix(VirtualTokens):
    """Extra keys and values in every layer.

    Attributes:
        keys_values: ``[2 * layers, heads, length, head size]``: keys and values of layer 0, of layer 1, and so on.
    """

    name: ClassVar[str] = "prefix"

    keys_values: torch.Tensor

    @property
    def states(self) -> torch.Tensor:
        return self.keys_values


@dataclass(frozen=True)
class Prompt(VirtualTokens):
    """Extra input embeddings.

    Attributes:
        embeddings: ``[length, hidden]``.
    """

    name: ClassVar[str] = "prompt"

    embeddings: torch.Tensor

    @property
    def states(self) -> torch.Tensor:
        return self.embeddings
