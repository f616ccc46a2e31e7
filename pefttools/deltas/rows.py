"""Rows of an embedding that replace the module's own: trained tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pefttools.deltas.kind import DeltaKind
from pefttools.deltas.replace import twin


@dataclass(frozen=True)
class EmbeddingRows(DeltaKind):
    """An embedding with other vectors for some tokens.

    Attributes:
        tokens: ids of these tokens, ``[n]``.
        vectors: ``[n, size]``.
    """

    name: ClassVar[str] = "embedding_rows"
    linear: ClassVar[bool] = False
    stacked: ClassVar[bool] = False

    tokens: torch.Tensor
    vectors: torch.Tensor

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.vectors))

    def fold(self, parameters: Mapping[str, torch.Tensor], site: str) -> dict[str, torch.Tensor]:
        changed = parameters["weight"].clone()
        changed[self.tokens] = self.vectors.to(changed)
        return {**parameters, "weight": changed}

    def alone(self, module: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        # The module itself does the lookup: some scale the result.
        few = twin(module, {"weight": self.vectors})
        tokens = self.tokens.to(module.get_parameter("weight").device)

        def put(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            same = x[..., None] == tokens
            found: torch.Tensor = few(same.int().argmax(-1))
            return torch.where(same.any(-1, keepdim=True), found, y)

        return put
