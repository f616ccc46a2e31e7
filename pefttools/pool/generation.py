"""Generation with an adapter per row, using transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pefttools.compute.moving import moved
from pefttools.errors import ConfigError
from pefttools.pool.base import ServedBase
from pefttools.pool.virtual import BatchVirtualTokens, inject


@dataclass(frozen=True)
class Sampling:
    """How a row's tokens are drawn; each row has a generator of its own, so that its neighbours don't matter.

    Attributes:
        seed: seed of the row's generator.
        temperature: divides the logits; above zero.
        top_k: draw from this many of the most likely tokens; 0 for all.
        top_p: draw from the most likely tokens that together have this probability; 1 for all.
        generator: continues from its current state, for an answer that was begun before; None for one that starts at
            the seed.

    Raises:
        ConfigError: a value out of its range.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError("sampling needs temperature > 0, top_k >= 0 and 0 < top_p <= 1")

    def begun(self, device: torch.device) -> Sampling:
        """The same with a generator that starts at the seed, and then keeps its state from call to call."""
        return replace(self, generator=torch.Generator(device).manual_seed(self.seed % 2**63))

    def warp(self, scores: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, vocabulary]`` with temperature, top-k and top-p applied."""
        ids = torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)
        if self.temperature != 1.0:
            scores = TemperatureLogitsWarper(self.temperature)(ids, scores)
        if self.top_k:
            scores = TopKLogitsWarper(self.top_k)(ids, scores)
        if self.top_p < 1.0:
            scores = TopPLogitsWarper(self.top_p)(ids, scores)
        return scores


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Turns each row's logits into others whose largest is the drawn token.

    The largest of logits with Gumbel noise is a draw from their softmax.
    """

    def __init__(self, rows: Sequence[Sampling | None], device: torch.device) -> None:
        self.generators = [
            (index, row.generator or row.begun(device).generator) for index, row in enumerate(rows) if row is not None
        ]
        alike: dict[Sampling, list[int]] = {}
        for index, row in enumerate(rows):
            if row is not None:
                alike.setdefault(replace(row, seed=0, generator=None), []).append(index)
        #: rows with equal settings, which are warped together
        self.groups = [(settings, moved(torch.tensor(own), device)) for settings, own in alike.items()]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = scores.float().clone()
        noise = torch.empty_like(drawn)
        for index, generator in self.generators:
            noise[index].exponential_(generator=generator)
        for settings, own in self.groups:
            gumbel = noise.index_select(0, own).clamp(min=1e-30).log()
            drawn.index_copy_(0, own, settings.warp(drawn.index_select(0, own)) - gumbel)
        return drawn


class _Lengths(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at a length of its own."""

    def __init__(self, prompt: int, lengths: Sequence[int], device: torch.device) -> None:
        self.prompt = prompt
        self.lengths = moved(torch.tensor(lengths), device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] - self.prompt >= self.lengths


class _Ends(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at tokens of its own."""

    def __init__(self, ends: Sequence[Sequence[int]], device: torch.device) -> None:
        # transformers pads the rows that have ended if some criterion has this
        self.eos_token_id = torch.tensor(sorted(frozenset().union(*ends)))
        longest = max(map(len, ends))
        #: ``[rows, ends]``, padded with a value that is not a token
        self.ends = moved(torch.tensor([[*own, *[-1] * (longest - len(own))] for own in ends]), device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return (input_ids[:, -1:] == self.ends).any(1)


def generate(
    served: ServedBase,
    inputs: dict[str, torch.Tensor],
    virtual: BatchVirtualTokens | None,
    *,
    max_new_tokens: Sequence[int],
    num_beams: int = 1,
    sampling: Sequence[Sampling | None] = (),
    ends: Sequence[Sequence[int]] = (),
    **options: Any,
) -> torch.Tensor:
    """New tokens ``[rows, new]`` for left-padded prompts; the rows' adapters must be routed.

    Args:
        served: the base.
        inputs: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``.
        virtual: the rows' virtual tokens.
        max_new_tokens: maximum number of new tokens, per row.
        num_beams: beams per row.
        sampling: per row, how tokens are drawn; None, or empty, to take the most likely.
        ends: per row, tokens that end it; empty for those of the base's generation settings.
        options: options of transformers' ``generate``.
    """
    prompt = inputs["input_ids"].shape[1]
    settings = settings_of(served, prompt, max_new_tokens, num_beams, sampling, ends, options)
    if virtual is not None and num_beams > 1:
        virtual = virtual.repeat(num_beams)
    with virtual_tokens(served, virtual):
        tokens = served.model.generate(**inputs, **settings)  # type: ignore[operator]
    return cast("torch.Tensor", tokens[:, prompt:])


def settings_of(
    served: ServedBase,
    prompt: int,
    max_new_tokens: Sequence[int],
    num_beams: int,
    sampling: Sequence[Sampling | None],
    ends: Sequence[Sequence[int]],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Options for transformers' ``generate``, so that each row ends and is sampled in its own way.

    Args:
        served: the base.
        prompt: number of tokens before the new ones.
        max_new_tokens: see `generate`, also for the following.

    Raises:
        ConfigError: what beam search can't be combined with.
    """
    options = dict(options)
    criteria = list(options.pop("stopping_criteria", ()))
    if any(row is not None for row in sampling):
        if num_beams > 1:
            raise ConfigError("sampling can't be combined with beam search")
        before = options.pop("logits_processor", ())
        options["logits_processor"] = LogitsProcessorList([*before, _Draw(sampling, served.device)])
    if len(set(max_new_tokens)) > 1:
        if num_beams > 1:
            raise ConfigError("answers of different lengths can't be combined with beam search")
        criteria.append(_Lengths(prompt, max_new_tokens, served.device))
    distinct = {tuple(one) for one in ends}
    if len(distinct) == 1:
        options["eos_token_id"] = list(distinct.pop()) or None
    elif distinct:
        if num_beams > 1:
            raise ConfigError("adapters with different end tokens can't be combined with beam search")
        criteria.append(_Ends(ends, served.device))
    return {
        "max_new_tokens": max(max_new_tokens),
        "num_beams": num_beams,
        "do_sample": False,
        "pad_token_id": served.tokenizer.pad_token_id,
        "stopping_criteria": StoppingCriteriaList(criteria),
        **options,
    }


@contextmanager
def virtual_tokens(served: ServedBase, virtual: BatchVirtualTokens | None) -> Iterator[None]:
    """Within it every forward pass of the backbone sees the virtual tokens; their states are hidden from callers."""
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


def token_ids(given: int | Sequence[int] | torch.Tensor | None) -> list[int]:
    """Token ids in any form that transformers takes: one, several, a tensor, or none."""
    if given is None:
        return []
    if isinstance(given, torch.Tensor):
        return [int(one) for one in given.flatten()]
    return [given] if isinstance(given, int) else list(given)
