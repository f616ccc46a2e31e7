"""What transformers builds for a configuration, and what may be quantized of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pefttools.errors import BaseModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: what transformers calls an input -> what it is
#: auto classes of models that have an encoder and a decoder
_OF_PAIRS = ("AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
_INPUTS = {"input_ids": "text", "pixel_values": "pictures", "input_features": "audio"}


def kept(model: nn.Module) -> list[str]:
    """Linear layers that no quantization may touch: heads, and whatever is not part of the backbone."""
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


def class_of(auto: Any, config: Any, *, pooler: bool, reads: str = "input_ids") -> tuple[type[Any], dict[str, Any]]:
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
    _check_input(model_class, config, auto.__name__, reads)
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    # A pooler that nothing reads would be trained by no gradient and fingerprinted by chance.
    without = not pooler and auto.__name__ == "AutoModel" and takes_pooler
    return model_class, {"add_pooling_layer": False} if without else {}


def _check_input(model_class: type[Any], config: Any, auto: str, reads: str) -> None:
    """Refuse a class that reads something else, or can't classify or continue texts by itself.

    Raises:
        BaseModelError: says which.
    """
    named = f"the base model is a {config.model_type}"
    if model_class.main_input_name != reads:
        raise BaseModelError(f"{named}: it reads {model_class.main_input_name}, not {_INPUTS.get(reads, reads)}")
    if not config.is_encoder_decoder:
        return
    if auto not in _OF_PAIRS:
        raise BaseModelError(
            f"{named}, which has an encoder and a decoder; such a model can only write texts from texts, or classify, "
            "with its own head (task.head=model)"
        )
    if getattr(config, "decoder_start_token_id", None) is None:
        raise BaseModelError(f"{named} without decoder_start_token_id in its configuration: its decoder can't begin")
