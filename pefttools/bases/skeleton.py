"""A base of which nothing but the configuration is needed: built on the meta device, without weights."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.bases.locate import Base
from pefttools.bases.sizes import OF_CONFIGURATIONS, check_given, check_sizes
from pefttools.errors import BaseModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Skeleton(Base):
    """Stands in for a `Base` wherever a model is only looked at, never run on numbers."""

    def transformer(
        self, auto: Any, variant: BaseVariant, *, pooler: bool = False, **config_changes: Any
    ) -> tuple[nn.Module, list[str]]:
        """As `load_transformer` gives it, on the meta device.

        Raises:
            BaseModelError: no configuration, or one of no known model.
        """
        import torch

        config = self.configuration(**config_changes)
        stored = stored_format(config)
        try:
            _, arguments = class_of(auto, config, pooler=pooler)
            with torch.device("meta"):
                model: nn.Module = auto.from_config(config, dtype=torch.float32, **arguments)
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
        """What a task asks of a tokenizer before there is a text."""
        return PlannedTokenizer()


class PlannedTokenizer:
    """Answers questions about a tokenizer; it has no vocabulary."""

    pad_token_id = 0
    eos_token_id = 0
    chat_template = "planned"
    model_input_names = ("input_ids", "attention_mask")


def skeleton(source: str) -> Skeleton:
    """A base's skeleton; a folder with nothing but ``config.json`` will do.

    Raises:
        BaseModelError: nothing there.
    """
    from pefttools.bases.locate import locate_base

    folder = Path(source).expanduser()
    if (folder / "config.json").is_file():
        return Skeleton(source, folder)
    if folder.is_dir():
        raise BaseModelError(f"{folder} has no config.json", hint="Give the folder of a model, or of its config.json.")
    found = locate_base(source)
    return Skeleton(found.id, found.folder, found.revision)


def kept(model: nn.Module) -> list[str]:
    """Linear layers that no quantization may touch: heads, and whatever is no part of the backbone."""
    from pefttools.sites import all_linear, is_linear

    inside = set(all_linear(model))
    return [name for name, module in model.named_modules() if is_linear(module) and name not in inside]


def stored_format(config: Any) -> torch.dtype:
    """Number format of a checkpoint's weights: one of 16 bits where its configuration says so, else float32."""
    import torch

    said = config.dtype
    return said if said in (torch.bfloat16, torch.float16) else torch.float32


def longest_text(config: Any) -> int | None:
    """Most tokens that a model's positions reach; None where its configuration sets no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None or limit <= 0 else int(limit)  # XLNet says -1


def class_of(auto: Any, config: Any, *, pooler: bool) -> tuple[type[Any], dict[str, Any]]:
    """The class that one of transformers' auto classes builds for a configuration, and what else it must be told.

    Raises:
        BaseModelError: the auto class knows no such model.
    """
    if type(config) not in auto._model_mapping:
        raise BaseModelError(
            f"the base model is a {config.model_type}; transformers has no {auto.__name__} of this type"
        )
    model_class = auto._model_mapping[type(config)]
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    _check_takes_texts(model_class, config, auto.__name__)
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    # A pooler that nothing reads would be trained by no gradient and fingerprinted by chance.
    without = not pooler and auto.__name__ == "AutoModel" and takes_pooler
    return model_class, {"add_pooling_layer": False} if without else {}


def _check_takes_texts(model_class: type[Any], config: Any, auto: str) -> None:
    """Refuse a class that reads something else than texts, or can't classify or continue them by itself.

    Raises:
        BaseModelError: says which.
    """
    named = f"the base model is a {config.model_type}"
    if model_class.main_input_name != "input_ids":
        raise BaseModelError(f"{named}: it reads {model_class.main_input_name}, not texts")
    if not config.is_encoder_decoder:
        return
    if auto != "AutoModelForSequenceClassification":
        raise BaseModelError(
            f"{named}, which has an encoder and a decoder; such a model can only classify, with its own head "
            "(task.head=model)"
        )
    if getattr(config, "decoder_start_token_id", None) is None:
        raise BaseModelError(f"{named} without decoder_start_token_id in its configuration: it can't classify")
