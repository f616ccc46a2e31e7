"""Generation with an adapter per row, by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pefttools.errors import ConfigError
from pefttools.pool.base import ServedBase
from pefttools.pool.virtual import VirtualTokens, inject


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; each row draws from a generator of its own, so that its neighbours don't matter.

    Attributes:
        seeds: one per row.
        temperature: divides the logits; above zero.
        top_k: only the most likely tokens; 0: all.
        top_p: only the most likely tokens that together have this probability; 1: all.
    """

    seeds: Sequence[int]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def processors(self, device: torch.device) -> LogitsProcessorList:
        """Turn logits into others whose largest is the drawn token.

        Raises:
            ConfigError: a value out of its range.
        """
        if self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError("sampling needs temperature > 0, top_k >= 0 and 0 < top_p <= 1")
        found = LogitsProcessorList()
        if self.temperature != 1.0:
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        found.append(_GumbelNoise(self.seeds, device))
        return found


class _GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """The largest of logits with Gumbel noise is a draw from their softmax (Gumbel-max trick)."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.stack(
            [torch.empty_like(scores[0]).exponential_(generator=generator) for generator in self.generators]
        )
        return scores - noise.clamp(min=torch.finfo(noise.dtype).tiny).log()


def generate(
    served: ServedBase,
    inputs: dict[str, torch.Tensor],
    virtual: VirtualTokens | None,
    *,
    max_new_tokens: int,
    num_beams: int = 1,
    sampling: Sampling | None = None,
    **options: Any,
) -> torch.Tensor:
    """New tokens ``[rows, new]`` for left-padded prompts; the rows' adapters must be routed.

    Args:
        served: the base.
        inputs: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``.
        virtual: the rows' virtual tokens.
        max_new_tokens: most new tokens per row.
        num_beams: beams per row.
        sampling: draw tokens; None: take the most likely.
        options: of transformers' ``generate``.
    """
    if sampling is not None:
        if num_beams > 1:
            raise ConfigError("sampling does not go with beams")
        options["logits_processor"] = sampling.processors(served.device)
    if virtual is not None and num_beams > 1:
        virtual = virtual.repeat(num_beams)
    with _virtual_tokens(served, virtual):
        tokens = served.model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
            pad_token_id=served.tokenizer.pad_token_id,
            **options,
        )
    return cast("torch.Tensor", tokens[:, inputs["input_ids"].shape[1] :])


@contextmanager
def _virtual_tokens(served: ServedBase, virtual: VirtualTokens | None) -> Iterator[None]:
    """Let every forward of the backbone within see the virtual tokens, and nobody their states."""
    backbone = served.backbone
    names = served.forward_arguments

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return (), inject(served, virtual, given)

    def after(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if virtual is not None and kwargs.get("inputs_embeds") is not None:
            output.last_hidden_state = output.last_hidden_state[:, virtual.prompt_length :]
        return output

    handles = [
        backbone.register_forward_pre_hook(before, with_kwargs=True),
        backbone.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
