"""Which module is running."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Place:
    """Follows a model's modules through forward and backward; holds no tensor.

    Args:
        model: hooks are set on its modules while the place is entered as a context.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._inside: list[str] = []
        self._behind = ""
        self._handles: list[Any] = []

    @property
    def now(self) -> str:
        """Name of the innermost running module; in the backward pass, of the last one whose gradient arrived."""
        return (self._inside[-1] or "loss") if self._inside else self._behind

    def __enter__(self) -> Place:
        for name, module in self.model.named_modules():
            short = name.removeprefix("transformer.").replace("base_model.model.", "")
            self._handles += [
                module.register_forward_pre_hook(lambda *_, name=short: self._inside.append(name)),
                module.register_forward_hook(lambda *found, name=short: self._left(name, found[-1]), always_call=True),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._inside, self._behind = [], ""

    def _left(self, name: str, output: Any) -> None:
        if self._inside:
            self._inside.pop()
        if not self._inside:
            self._behind = ""
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, torch.Tensor) and first.requires_grad:
            first.register_hook(lambda _: self._back(name))

    def _back(self, name: str) -> None:
        self._behind = f"{name} (backward)"
