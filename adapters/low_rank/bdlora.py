"""BD-LoRA: LoRA whose factors are block-diagonal, matching how a server shards the layer across its GPUs.

Block-Diagonal LoRA for Eliminating Communication Overhead in Tensor Parallel LoRA Serving,
https://arxiv.org/abs/2510.23346

    y = W x + (alpha / r) B A x

A is block-diagonal in the projections that end the attention and the feed-forward sub-layer, B in all others, with as
many blocks as there are GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.sites import block_parts

from .lora_relative import LoraRelative, LoraRelativeOptions

if TYPE_CHECKING:
    from torch import nn


class BDLoraOptions(LoraRelativeOptions):
    """Options of BD-LoRA."""

    blocks: int = Field(2, ge=1, description="blocks of each factor; must divide the rank and the sizes of all layers")


class BDLora(LoraRelative[BDLoraOptions]):
    """Low-rank updates with block-diagonal factors."""

    name = "bdlora"
    summary = "low-rank updates with block-diagonal factors, for servers that shard layers across GPUs"
    paper = "https://arxiv.org/abs/2510.23346"
    config = BDLoraOptions
    own_options = frozenset({"blocks"})
    divides = "blocks"

    def sizes(self, model: nn.Module, config: BDLoraOptions, names: list[str]) -> dict[str, Any]:
        import peft

        super().sizes(model, config, names)
        parts = block_parts(model)
        ends = {*parts.attention_outputs, parts.feed_forward_output}
        inputs = [name for name in names if name.endswith(tuple(f".{end}" for end in ends))]
        return {
            "use_bdlora": peft.tuners.lora.BdLoraConfig(
                inputs, [name for name in names if name not in inputs], config.blocks, match_strict=False
            )
        }
