"""What makes a row's answer independent of its padding, on whichever side that is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from pefttools.bases.positions import first_position
from pefttools.tasks.types import Batch, Example


def padded_texts(examples: Sequence[Example], tokenizer: Any) -> Batch:
    """Token ids as one batch ``[rows, tokens]``, padded on the right, with a mask, and types if a text has any."""
    names = ("input_ids", "token_type_ids") if any("token_type_ids" in one for one in examples) else ("input_ids",)
    table = [{name: one.get(name, [0] * len(one["input_ids"])) for name in names} for one in examples]
    return dict(tokenizer.pad(table, padding_side="right", return_tensors="pt"))


def padded_on_the_right(batch: Batch) -> Batch:
    """Each row's tokens before its padding, in their order: positions are then those of the row alone.

    Args:
        batch: tensors; those of the shape of `attention_mask`, ``[rows, tokens]``, are reordered.
    """
    mask = batch.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return batch
    tokens = mask.shape[1]
    # All keys differ: a stable sort would do the same without them, but ONNX has none.
    keys = mask.ne(0).long() * tokens - torch.arange(tokens, device=mask.device)
    order = keys.topk(tokens, dim=1).indices
    return {name: tensor.gather(1, order) if tensor.shape == mask.shape else tensor for name, tensor in batch.items()}


def pad_with(model: Any, token: int | None) -> None:
    """Tell a model with a head of its own which token stands for padding: many decoders' heads look for it.

    RoBERTa and its relatives count positions from the padding token's id, which stays what the base was trained with.

    Args:
        model: a transformers model.
        token: the tokenizer's padding token.
    """
    if first_position(model.base_model) == 0:
        for config in (model.config, model.config.get_text_config()):
            config.pad_token_id = token


def reads_the_last_position(model: nn.Module) -> bool:
    """Whether transformers' own class answers from the last position, even where that is padding, as XLNet's does."""
    return any(getattr(module, "summary_type", None) == "last" for module in model.modules())


def show_the_last_token(model: nn.Module) -> None:
    """Make a class of transformers that answers from the last position see the last token there, not padding.

    Many decoders' classes look for the last token in `input_ids`; given embeddings, as by prompt tuning, they take the
    last position. XLNet's always does. The state of each row's last token is put there, as the mask says.

    Args:
        model: a transformers model with a head of its own, e.g. a LlamaForSequenceClassification.
    """
    backbone = model.base_model
    assert isinstance(backbone, nn.Module)
    signature = inspect.signature(backbone.forward)
    always = reads_the_last_position(model)

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        mask = given.get("attention_mask")
        if mask is None or mask.ndim != 2 or not isinstance(output, ModelOutput):
            return output
        if not always and given.get("input_ids") is not None:
            return output
        states = output.last_hidden_state
        # A prefix is in the mask, but has no states.
        real = mask[:, -states.shape[1] :] != 0
        last = (torch.arange(states.shape[1], device=states.device) * real).argmax(1)
        at_last = states[torch.arange(len(states), device=states.device), last]
        output.last_hidden_state = torch.cat([states[:, :-1], at_last[:, None]], dim=1)
        return output

    backbone.register_forward_hook(put, with_kwargs=True)
