"""Virtual tokens of a mixed batch: prefixes (extra keys and values) and prompts (extra embeddings), of any lengths.

Both come before the text, padded on the left, so that a row sees ``[prefix][prompt][text]`` with its own padding
masked. A row with n virtual tokens has its text at the positions n, n + 1, ..., which is what it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pefttools.compute.moving import moved
from pefttools.deltas import Prefix, Prompt
from pefttools.errors import ConfigError
from pefttools.pool.base import ServedBase
from pefttools.pool.weight_slots import Allocation, WeightSlots


@dataclass(frozen=True)
class BatchVirtualTokens:
    """The virtual tokens of a batch's rows.

    Attributes:
        keys_values: per layer, keys and values ``[rows, heads, prefix, head size]``; None if no row has a prefix.
        embeddings: ``[rows, prompt, hidden]``; None if no row has a prompt.
        mask: which of them are real, ``[rows, prefix + prompt]``.
    """

    keys_values: list[tuple[torch.Tensor, torch.Tensor]] | None
    embeddings: torch.Tensor | None
    mask: torch.Tensor

    @property
    def prompt_length(self) -> int:
        """Length that all prompts are padded to."""
        return 0 if self.embeddings is None else self.embeddings.shape[1]

    @property
    def prefix_length(self) -> int:
        """Length that all prefixes are padded to."""
        return self.mask.shape[1] - self.prompt_length

    def repeat(self, times: int) -> BatchVirtualTokens:
        """Each row `times` times, in the order of beams."""

        def more(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.repeat_interleave(times, 0)

        return BatchVirtualTokens(
            None if self.keys_values is None else [(more(k), more(v)) for k, v in self.keys_values],
            None if self.embeddings is None else more(self.embeddings),
            more(self.mask),
        )


def gather(
    weight_slots: WeightSlots, rows: Sequence[Allocation | None], served: ServedBase
) -> BatchVirtualTokens | None:
    """The virtual tokens of the routed rows; None if no row has any."""
    prefix, prefix_mask = _gathered(Prefix, weight_slots, rows)
    prompt, prompt_mask = _gathered(Prompt, weight_slots, rows)
    masks = [mask for mask in (prefix_mask, prompt_mask) if mask is not None]
    if not masks:
        return None
    keys_values = None
    if prefix is not None:
        states = prefix.to(served.dtype).unbind(1)
        keys_values = list(zip(states[::2], states[1::2], strict=True))
    embeddings = None if prompt is None else prompt.to(served.dtype)
    return BatchVirtualTokens(keys_values, embeddings, torch.cat(masks, dim=1))


def _gathered(
    kind: type[Prefix | Prompt], weight_slots: WeightSlots, rows: Sequence[Allocation | None]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """States ``[rows, ..., longest, size]``, padded on the left, and the mask of what is real ``[rows, longest]``."""
    lengths = [0 if row is None else row.lengths.get(kind.name, 0) for row in rows]
    longest = max(lengths)
    if longest == 0:
        return None, None
    needed = {family for row in rows if row is not None for family in row.slots}
    parts = [
        weight_slots.virtual[family].rows(slots, longest)
        for family, slots in weight_slots.routing.virtual.items()
        if family.kind == kind.name and family in needed
    ]
    # Slot 0 is zeros: a row has states in at most one of the parts.
    states = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
    mask = (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()
    return states, moved(mask, states.device)


def inject(served: ServedBase, virtual: BatchVirtualTokens | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the model's forward pass, with the virtual tokens and with explicit positions.

    Args:
        served: the base.
        virtual: virtual tokens of the batch's rows.
        inputs: as the model would take them without virtual tokens; a cache tells how much of the text has been read.

    Raises:
        ConfigError: text and virtual tokens together are longer than the model can take.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    cache = inputs.get("past_key_values")
    done = 0 if cache is None else cache.get_seq_length()
    if mask is None:
        # transformers omits a mask of ones; the virtual tokens, which are also in the cache, get their own below.
        text = done - (virtual.mask.shape[1] if virtual is not None and done else 0)
        mask = ids.new_ones(ids.shape[0], text + ids.shape[1])
    if virtual is not None:
        if mask.dim() != 2:
            raise ConfigError("virtual tokens need an attention mask with one entry per token")
        if done == 0:
            inputs |= _first(served, virtual, inputs, cache)
        mask = torch.cat([virtual.mask.to(mask.dtype), mask], dim=1)
        inputs["attention_mask"] = mask
    elif not served.counts_positions:
        return inputs
    if not served.takes_positions:
        raise ConfigError(
            f"the base model {served.base.id!r} takes no position ids, so prefixes and prompts can't be served on it"
        )
    length = inputs["inputs_embeds"].shape[1] if "inputs_embeds" in inputs else ids.shape[1]
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -length:] + served.first_position
    if served.longest is not None:
        if done == 0:
            _check_length(served, mask, virtual)
        # Positions of rows that have ended keep increasing while other rows are generated.
        positions = positions.clamp(max=served.longest - 1)
    inputs["position_ids"] = positions
    return inputs


def _check_length(served: ServedBase, mask: torch.Tensor, virtual: BatchVirtualTokens | None) -> None:
    longest, limit = mask.shape[1] + served.first_position, served.longest
    if limit is not None and longest > limit and (most := int(mask.sum(1).max()) + served.first_position) > limit:
        raise ConfigError(
            f"{most - served.first_position} tokens{'' if virtual is None else ', including virtual ones,'} are more "
            f"than the {limit - served.first_position} that the base takes",
            hint="Shorten the text.",
        )


def _first(served: ServedBase, virtual: BatchVirtualTokens, inputs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """What changes at the start of the text: the cache is filled, the prompt's embeddings go before the text's."""
    from transformers import DynamicCache

    changes: dict[str, Any] = {}
    if virtual.keys_values is not None:
        if cache is None:
            cache = DynamicCache()
        for layer, (keys, values) in enumerate(virtual.keys_values):
            cache.update(keys, values, layer)
        changes["past_key_values"] = cache
    if virtual.embeddings is not None:
        embedding = served.backbone.get_input_embeddings()  # type: ignore[operator]
        embedded = embedding(inputs["input_ids"])
        changes["inputs_embeds"] = torch.cat([virtual.embeddings.to(embedded.dtype), embedded], dim=1)
        changes["input_ids"] = None
        types = inputs.get("token_type_ids")
        if types is not None:
            before = types.new_zeros(types.shape[0], virtual.prompt_length)
            changes["token_type_ids"] = torch.cat([before, types], dim=1)
    return changes
