"""Batches without padding: texts of different lengths follow one another in one row; each attends only to itself.

Linear layers, norms and the loss then see no padding at all. For attention alone the tokens are laid out in rows, where
a causal mask keeps every token from the padding after it, so that the fast kernel without a mask can be used. Where
each token goes is given by a tensor that is passed in place of the attention mask; transformers passes masks of four
dimensions on unchanged.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.autograd.function import once_differentiable

from pefttools.sites import transformers_models
from pefttools.tasks.task import IGNORE, Batch, Example

#: name of our attention in transformers' registry
NAME = "padding_free"
#: a batch with less padding is left as it is
_PADDING = 0.05


def enable(model: nn.Module, *, exact: bool = True) -> str | None:
    """Let a model take batches without padding too; all else stays as it was.

    Args:
        model: a causal language model.
        exact: whether it computes in the number format of its logits; a quantized one does not: it computes in 16 bits
            or fewer and gives float32.

    Returns:
        None, or why it can't.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    inner = next(iter(transformers_models(model)), None)
    if inner is None or inner.config._attn_implementation != "sdpa" or not inner._supports_attention_backend:
        return "the model's attention is not torch's"
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return "the model counts positions on its own"
    config = inner.config.get_text_config()
    if getattr(config, "attention_chunk_size", None):
        return "the model's attention works in chunks, which only its mask defines"
    windows: list[int | None] = []

    def trial(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        windows.append(options.get("sliding_window"))
        return _attention(*args, **options)

    AttentionInterface.register(NAME, trial)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    inner.set_attn_implementation(NAME)
    agrees = False
    try:
        # A window that only the mask defines, longer than the trial's texts, would be lost.
        agrees = is_fake(next(inner.parameters())) or (
            _agrees(model, inner, exact) and any(windows) == _has_window(config)
        )
    finally:
        AttentionInterface.register(NAME, _attention)
        if not agrees:
            inner.set_attn_implementation("sdpa")
    return None if agrees else "the model gives different results for rows without padding"


def _has_window(config: Any) -> bool:
    """Whether some layer's attention does not reach back to the beginning."""
    kinds = getattr(config, "layer_types", None)
    if getattr(config, "use_sliding_window", True) is False or (kinds and "sliding_attention" not in kinds):
        return False
    return getattr(config, "sliding_window", None) is not None


def pays(lengths: Sequence[int]) -> bool:
    """Whether there is padding worth leaving out."""
    return sum(lengths) < (1 - _PADDING) * len(lengths) * max(lengths)


def without_padding(examples: Sequence[Example]) -> Batch:
    """One batch of one row: ids, positions and, shifted as in `CausalLM.collate`, labels ``[1, tokens]``; layout.

    Args:
        examples: with ``input_ids`` and ``labels``.
    """
    ids = [token for example in examples for token in example["input_ids"]]
    labels = [label for example in examples for label in (*example["labels"][1:], IGNORE)]
    lengths = [len(example["input_ids"]) for example in examples]
    positions = [position for length in lengths for position in range(length)]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
        "attention_mask": layout(lengths),
    }


def layout(lengths: Sequence[int]) -> torch.Tensor:
    """Where tokens go: ``[1, 2, rows, longest]``.

    First plane: which token is at a place; where there is padding, the first. Second plane, flattened: at which place a
    token is.
    """
    rows, longest = len(lengths), max(lengths)
    planes = torch.zeros(2, rows, longest, dtype=torch.long)
    places = planes[1].view(-1)
    start = 0
    for row, length in enumerate(lengths):
        planes[0, row, :length] = torch.arange(start, start + length)
        places[start : start + length] = torch.arange(row * longest, row * longest + length)
        start += length
    return planes[None]


def _agrees(model: nn.Module, inner: Any, exact: bool) -> bool:
    """Whether three short texts get the same logits in one row as in rows of their own."""
    size, device = min(int(inner.config.get_text_config().vocab_size), 1000), next(inner.parameters()).device
    lengths = (7, 4, 6)
    texts = [[(31 * row + 7 * at + 3) % size for at in range(length)] for row, length in enumerate(lengths)]
    batch = without_padding([{"input_ids": text, "labels": text} for text in texts])
    del batch["labels"]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            apart = [model(input_ids=torch.tensor([text], device=device), use_cache=False).logits for text in texts]
            together = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False).logits
    finally:
        model.train(training)
    wanted = torch.cat(apart, dim=1).float()
    if together.shape != wanted.shape:
        return False
    exact = exact and together.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    tolerance = 1e-3 if exact else 0.05
    return bool((together.float() - wanted).abs().max() <= tolerance * wanted.abs().max())


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """torch's attention; heads of ``[1, heads, tokens, size]`` where the mask is a layout."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dtype != torch.long:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return attended
    token, place = attention_mask[0, 0], attention_mask[0, 1].view(-1)[: query.shape[2]]
    rows = [
        _ToRows.apply(tensor.transpose(1, 2), token, place).transpose(1, 2)  # type: ignore[no-untyped-call]
        for tensor in (query, key, value)
    ]
    out, _ = sdpa_attention_forward(module, *rows, _band(options.get("sliding_window"), token), **options)
    return _ToTokens.apply(out, token, place), None  # type: ignore[no-untyped-call]


def _band(window: int | None, token: torch.Tensor) -> torch.Tensor | None:
    """A mask for attention that reaches back `window` tokens, if there are that many."""
    longest = token.shape[1]
    if window is None or window >= longest:
        return None
    at = torch.arange(longest, device=token.device)
    back = at[:, None] - at
    return ((back >= 0) & (back < window))[None, None]


class _ToRows(torch.autograd.Function):
    """``[1, tokens, heads, size]`` -> ``[rows, longest, heads, size]``; padding gets some token's values."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, token: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        return _taken(tokens, token.view(-1)).view(*token.shape, *tokens.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Padding comes after all tokens of its row: nothing that counts has seen it.
        (place,) = ctx.saved_tensors
        return _taken(outer, place)[None], None, None


class _ToTokens(torch.autograd.Function):
    """The reverse of `_ToRows`."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, token: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        ctx.shape = rows.shape
        return _taken(rows, place)[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (place,) = ctx.saved_tensors
        rows = outer.new_zeros(ctx.shape[0] * ctx.shape[1], *outer.shape[2:])
        return rows.index_copy_(0, place, outer[0]).view(ctx.shape), None, None


def _taken(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``[a, b, heads, size]``, ``[n]`` -> ``[n, heads, size]``."""
    return tensor.reshape(-1, *tensor.shape[2:]).index_select(0, index)
