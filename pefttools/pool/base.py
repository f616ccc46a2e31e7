"""The base model that a pool serves: loaded once; an encoder, a decoder, or both together."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pefttools.bases import Base, variants
from pefttools.bases.loading import load_tokenizer, load_transformer
from pefttools.bases.model_class import MODALITIES, TEXT, longest_text, longest_written, main_input
from pefttools.bases.positions import first_position
from pefttools.compute.precision import check_precision, hardware_dtype
from pefttools.compute.processes import unused_cards
from pefttools.errors import BaseModelError, ConfigError, ContextLengthError


@dataclass(frozen=True)
class ServedBase:
    """A base model ready to be shared.

    Attributes:
        base: where it comes from.
        variant: number format of its weights.
        model: the transformers model; with its language head, if the base is a language model.
        backbone: the part that gives hidden states; the same as `model` for an encoder, and the audio encoder for a
            speech-to-text model.
        tokenizer: transformers' tokenizer; None if no text is read or written.
        reads: what transformers calls its main input, such as ``input_ids``.
        encoder_decoder: whether an encoder reads and a decoder writes.
        missing: parameters of the backbone that the base's files do not contain.
    """

    base: Base
    variant: str
    model: nn.Module
    backbone: nn.Module
    tokenizer: Any
    reads: str
    encoder_decoder: bool
    missing: tuple[str, ...]

    @property
    def modality(self) -> str:
        """What it reads, in the words of tasks: text, image or audio."""
        return MODALITIES[self.reads]

    @property
    def gives_states(self) -> bool:
        """Whether heads can be put on its states; otherwise it gives only texts."""
        return not self.encoder_decoder or self.model is not self.backbone

    @property
    def causal(self) -> bool:
        """Whether it is a decoder with its language head, which continues what it reads."""
        return self.model is not self.backbone and not self.encoder_decoder

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its hidden states."""
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        return dtype

    def advice(self) -> str | None:
        """Advice if it computes in a format in which its device is slow; None if there is nothing to say."""
        if self.device.type == "cpu":
            return unused_cards(self.device)
        fast = hardware_dtype(self.device)
        if self.device.type != "cuda" or self.dtype != torch.float32 or fast == torch.float32:
            return None
        if variants.get(self.variant).quantized:
            return None
        name = str(fast).removeprefix("torch.")
        return (
            f"computing in float32, in which {torch.cuda.get_device_name(self.device)} is slow: --dtype {name} "
            "takes half the memory"
        )

    @cached_property
    def forward_arguments(self) -> list[str]:
        """Names of the arguments of its backbone's forward."""
        return list(inspect.signature(self.backbone.forward).parameters)

    @property
    def takes_positions(self) -> bool:
        """Whether its forward has position_ids."""
        return "position_ids" in self.forward_arguments

    @cached_property
    def first_position(self) -> int:
        """Position of a text's first token."""
        return first_position(self.backbone)

    @property
    def counts_positions(self) -> bool:
        """Whether plain text gets explicit positions, so that padding on the left changes nothing."""
        return self.takes_positions and self.first_position == 0

    @property
    def longest(self) -> int | None:
        """Number of tokens for which it has positions."""
        return longest_written(self.config) if self.encoder_decoder else longest_text(self.config)

    def why_not_generated(self, adapter: str | None = None, *, language: bool = True) -> str | None:
        """Why no text can be generated; None if it can.

        Args:
            adapter: name of a row's adapter; None for the base.
            language: whether that adapter answers with the base's language head.
        """
        if not self.causal and not self.encoder_decoder:
            return f"the base {self.base.id!r} is an encoder: it can't generate"
        return None if language else f"the adapter {adapter!r} has a head of its own: it can't generate"

    def check_length(self, prompt: int, new: int, virtual: int) -> None:
        """Refuse more tokens than there are positions.

        Raises:
            ContextLengthError: prompt, new and virtual tokens together are too many.
        """
        limit = None if self.longest is None else self.longest - self.first_position
        if limit is not None and prompt + new + virtual > limit:
            raise ContextLengthError(
                f"{prompt} prompt tokens, {new} new ones and {virtual} virtual ones are more than the {limit} that the "
                "base takes"
            )


def load_served_base(
    base: Base, variant: str, dtype: torch.dtype | None, device: torch.device | None, *, causal: bool = False
) -> ServedBase:
    """Load a base for a pool.

    Args:
        base: where it comes from.
        variant: number format of its weights.
        dtype: number format to compute in, instead of the variant's own.
        device: device to move it to; None to leave it where it was loaded.
        causal: whether a base is a decoder whose configuration does not say what it is.

    Raises:
        BaseModelError: an encoder-decoder model that writes no texts, one that reads images and texts together, or
            one that lacks weights.
        ConfigError: a dtype for a quantized variant.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = variants.get(variant)(device)
    kind.check()
    if device is not None:
        check_precision("auto", variant, device)
    if dtype is not None and kind.quantized:
        raise ConfigError(f"dtype can't be combined with the quantized variant {variant!r}")
    config = AutoConfig.from_pretrained(base.folder)
    reads, writes = main_input(config), _writes(config)
    if reads not in MODALITIES:
        raise BaseModelError(f"a pool can't serve {base.id!r}: it reads {reads}")
    tokenizer = load_tokenizer(base) if writes or reads in TEXT else None
    auto = _auto_class(config, causal, reads)
    # A narrower format is loaded as such: half the memory must not require all of it at first.
    narrow = dtype if dtype is not None and dtype.itemsize < torch.float32.itemsize else None
    model, missing = load_transformer(auto, base, kind, pooler=True, dtype=narrow, reads={reads})
    backbone = model
    if auto is AutoModelForCausalLM:
        backbone = model.base_model  # type: ignore[assignment]
    elif writes and reads not in TEXT:
        backbone = model.get_encoder()  # type: ignore[operator]
    assert isinstance(backbone, nn.Module)
    if {"input_ids", "pixel_values"} <= set(inspect.signature(backbone.forward).parameters):
        raise BaseModelError(f"a pool can't serve {base.id!r}: it reads images and texts together")
    lacking = [name for name in missing if not name.startswith("pooler.")]
    if lacking:
        raise BaseModelError(f"the base model {base.id!r} lacks weights that it needs: {', '.join(lacking[:3])}")
    kind.compute_in(model, hardware_dtype(device))
    if dtype is not None:
        model = model.to(dtype)
    if device is not None:
        model = model.to(device)
    return ServedBase(base, variant, model, backbone, tokenizer, reads, writes, tuple(missing))


def _writes(config: Any) -> bool:
    """Whether it is an encoder-decoder base that writes texts."""
    first = str((config.architectures or ["ForConditionalGeneration"])[0])
    return bool(config.is_encoder_decoder) and first.endswith("ForConditionalGeneration")


def _auto_class(config: Any, causal: bool, reads: str) -> Any:
    """The auto class with which a pool loads a base."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

    names = config.architectures
    if _writes(config):
        return AutoModelForSeq2SeqLM if reads in TEXT else AutoModelForSpeechSeq2Seq
    if causal if not names else str(names[0]).endswith(("ForCausalLM", "LMHeadModel")):
        return AutoModelForCausalLM
    return AutoModel
