"""A base that needs only its configuration: built on the meta device, without weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.bases.locate import Base, locate_base
from pefttools.bases.model_class import TEXT, class_of, kept, stored_format
from pefttools.bases.packed_checkpoint import check_packed_format, plain_weights
from pefttools.bases.sizes import OF_CONFIGURATIONS, check_given, check_sizes
from pefttools.errors import BaseModelError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Skeleton(Base):
    """Stands in for a `Base` wherever a model is only inspected, never run on values."""

    def transformer(
        self,
        auto: Any,
        variant: BaseVariant,
        *,
        pooler: bool = False,
        reads: Collection[str] = TEXT,
        new_head: bool = False,
        **config_changes: Any,
    ) -> tuple[nn.Module, list[str]]:
        """As `load_transformer` gives it, on the meta device.

        Raises:
            BaseModelError: no configuration, or one of no known model.
        """
        import torch

        plain_weights(self.id, self.folder, variant.name, variant.quantized)
        config = self.configuration(**config_changes)
        stored = stored_format(config)
        try:
            built = class_of(auto, config, pooler=pooler, reads=reads)
            with torch.device("meta"):
                make = auto.from_config if built.names is None else built.kind._from_config
                model: nn.Module = make(config, dtype=torch.float32, **built.arguments)
        except (OSError, *OF_CONFIGURATIONS) as error:
            raise BaseModelError(
                f"the base model {self.id!r} can't be built as {auto.__name__}: {str(error) or repr(error)}"
            ) from error
        model.tie_weights()  # type: ignore[operator]
        with torch.device("meta"):
            variant.stand_in(model, kept(model), stored)
        variant.after_load(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return model.eval(), []

    def configuration(self, **changes: Any) -> Any:
        """Its transformers configuration.

        Raises:
            BaseModelError: none, or of no known model.
        """
        from transformers import AutoConfig

        try:
            given = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            check_given(self.id, given)
            config = AutoConfig.from_pretrained(self.folder, **changes)
        except (OSError, *OF_CONFIGURATIONS) as error:
            said = " ".join(line.strip() for line in str(error).splitlines()) or repr(error)
            raise BaseModelError(f"the configuration of {self.id!r} can't be used: {said}") from error
        check_sizes(self.id, config, given)
        return config

    def tokenizer(self) -> Any:
        """What a task needs to know about a tokenizer before there is a text."""
        return PlannedTokenizer()


class PlannedTokenizer:
    """Answers questions about a tokenizer; it has no vocabulary."""

    pad_token_id = 0
    eos_token_id = 0
    mask_token_id = 0
    chat_template = "planned"
    model_input_names = ("input_ids", "attention_mask")

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """Tokens of which only the number counts: two for every word, and one at each end."""
        return {"input_ids": [[0] * (2 + 2 * len(text.split())) for text in texts]}


def skeleton(source: str) -> Skeleton:
    """A base's skeleton; a folder with only ``config.json`` is enough.

    Raises:
        BaseModelError: nothing there.
    """
    folder = Path(source).expanduser()
    if (folder / "config.json").is_file():
        check_packed_format(source, folder)
        return Skeleton(source, folder)
    if folder.is_dir():
        raise BaseModelError(f"{folder} has no config.json", hint="Give the folder of a model, or of its config.json.")
    found = locate_base(source)
    return Skeleton(found.id, found.folder, found.revision)
