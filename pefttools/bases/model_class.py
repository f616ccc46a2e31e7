"""What transformers builds for a configuration, and which parts of it may be quantized."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from pefttools.errors import BaseModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: what transformers calls the main input of a model that reads texts
TEXT = frozenset({"input_ids"})
#: auto classes of models that have an encoder and a decoder
_OF_PAIRS = ("AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
#: what transformers calls an input -> what it is
_INPUTS = {"input_ids": "text", "pixel_values": "pictures", "input_features": "audio", "input_values": "audio"}
#: the same in terms of `Task.modality`
MODALITIES = {**_INPUTS, "pixel_values": "image"}


def kept(model: nn.Module) -> list[str]:
    """Linear layers that no quantization may touch: heads, what is not part of the backbone, and what is only read.

    A mixer of a state-space model uses the weights of some of its layers as plain numbers, without calling the layers.
    """
    from pefttools.sites import block_linear, is_linear, read_past

    inside = set(block_linear(model)) - read_past(model)
    return [name for name, module in model.named_modules() if is_linear(module) and name not in inside]


def stored_format(config: Any) -> torch.dtype:
    """Number format of a checkpoint's weights: one of 16 bits if its configuration says so, else float32."""
    import torch

    said = config.dtype
    return said if said in (torch.bfloat16, torch.float16) else torch.float32


def longest_text(config: Any) -> int | None:
    """Maximum number of tokens that a model has positions for; None if its configuration sets no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None or limit <= 0 else int(limit)  # XLNet says -1


def longest_written(config: Any) -> int | None:
    """The same for what an encoder-decoder's decoder writes; an encoder of sounds has its own positions."""
    limit = getattr(config, "max_target_positions", None)
    return longest_text(config) if limit is None else int(limit)


class ModelClass(NamedTuple):
    """What is built for a configuration.

    Attributes:
        kind: a class of transformers.
        arguments: what it needs besides the configuration.
        names: how the names in a checkpoint become its own, as patterns; None if they are the same.
    """

    kind: type[Any]
    arguments: dict[str, Any]
    names: dict[str, str] | None = None


def main_input(config: Any) -> str:
    """What transformers calls the main input of a base: of the model that gives states, without a head.

    Raises:
        BaseModelError: transformers has no such model.
    """
    from transformers import AutoModel

    return str(named_class(AutoModel, config).main_input_name)


def named_class(auto: Any, config: Any) -> type[Any]:
    """The class that an auto class names for a configuration; the first, if there are several.

    Raises:
        BaseModelError: the auto class knows no such model.
    """
    if type(config) not in auto._model_mapping:
        raise BaseModelError(
            f"the base model is a {config.model_type}; transformers has no {auto.__name__} of this type"
        )
    found = auto._model_mapping[type(config)]
    first: type[Any] = found[0] if isinstance(found, tuple) else found
    return first


def class_of(auto: Any, config: Any, *, pooler: bool, reads: Collection[str] = TEXT) -> ModelClass:
    """The class that one of transformers' auto classes builds for a configuration.

    If states of sounds are needed, it is only the encoder of a model that also has a decoder, such as Whisper.

    Raises:
        BaseModelError: the auto class knows no such model.
    """
    model_class = named_class(auto, config)
    if auto.__name__ == "AutoModel" and config.is_encoder_decoder and model_class.main_input_name in set(reads) - TEXT:
        return ModelClass(_encoder_class(model_class, config), {}, {r"^(?:model\.)?encoder\.": ""})
    _check_input(model_class, config, auto.__name__, reads)
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    # A pooler that nothing reads would get no gradient, and its random values would enter the fingerprint.
    without = not pooler and auto.__name__ == "AutoModel" and takes_pooler
    return ModelClass(model_class, {"add_pooling_layer": False} if without else {})


def _encoder_class(model_class: type[Any], config: Any) -> type[Any]:
    import torch

    with torch.device("meta"):
        return type(model_class(config).get_encoder())


def _check_input(model_class: type[Any], config: Any, auto: str, reads: Collection[str]) -> None:
    """Refuse a class that reads something else, or can't classify or continue texts on its own.

    Raises:
        BaseModelError: says what it reads or lacks.
    """
    named = f"the base model is a {config.model_type}"
    if model_class.main_input_name not in reads:
        wanted = " or ".join(sorted({_INPUTS.get(one, one) for one in reads}))
        raise BaseModelError(f"{named}: it reads {model_class.main_input_name}, not {wanted}")
    if not config.is_encoder_decoder or not TEXT & set(reads):
        return
    if auto not in _OF_PAIRS:
        raise BaseModelError(
            f"{named}, which has an encoder and a decoder; such a model can only write texts from texts, or classify "
            "with its own head (task.head=model)"
        )
    if getattr(config, "decoder_start_token_id", None) is None:
        raise BaseModelError(
            f"{named} without decoder_start_token_id in its configuration: its decoder has no token to start from"
        )
