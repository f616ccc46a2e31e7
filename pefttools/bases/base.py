"""What a variant of the base is: the number format in which a base model's weights are held in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pefttools.errors import ConfigError
from pefttools.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn


class BaseVariant(ABC):
    """A number format of the base's weights. Importing a variant must not import torch.

    Args:
        device: where the weights are loaded to, one by one; None for where transformers puts them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    #: weights that can't be trained themselves, because they are stored in only a few bits
    quantized: ClassVar[bool] = False
    #: names of variants that take less memory, the most faithful first
    smaller: ClassVar[tuple[str, ...]] = ()
    #: its layers output float16 on a GPU, whatever the rest computes in
    float16_on_cards: ClassVar[bool] = False

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def check(self) -> None:
        """Raise `ConfigError` if this machine can't run the variant. Called before anything is loaded."""
        return

    @abstractmethod
    def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
        """Arguments for transformers' ``from_pretrained``.

        Args:
            keep: names of modules that must not be quantized (heads).
            stored: the checkpoint's number format.
        """

    def stand_in(self, model: nn.Module, keep: list[str], stored: torch.dtype) -> None:
        """Give a model on the meta device the shapes and number formats that it is loaded with.

        Args:
            model: in float32.
            keep: names of modules that must not be quantized.
            stored: the checkpoint's number format.

        Raises:
            ConfigError: the variant can't be planned for.
        """
        raise ConfigError(f"the variant {self.name!r} can't be planned: it has no stand-in without values")

    def after_load(self, model: nn.Module) -> None:
        """Fix up what the loader leaves; does nothing by default."""
        return

    def compute_in(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Set the number format that layers stored in a few bits compute in; other layers follow their weights."""
        return


variants: Registry[BaseVariant] = Registry(
    "pefttools.variants", "variant", base="pefttools.bases.base:BaseVariant", former="pefttools.bases"
)
