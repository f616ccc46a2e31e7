"""Where in a model a method acts: matching module patterns, and what the parts of a transformer block are called."""

from pefttools.sites.blocks import all_linear, block_linear, block_of, block_parts, fused_weights, modules_at, read_past
from pefttools.sites.families import FAMILIES, BlockParts
from pefttools.sites.layers import (
    backbone_name,
    base_modules,
    input_size,
    is_linear,
    output_size,
    parametrized,
    transformers_models,
)
from pefttools.sites.patterns import ALL_LINEAR, ends, match_modules

__all__ = [
    "ALL_LINEAR",
    "FAMILIES",
    "BlockParts",
    "all_linear",
    "backbone_name",
    "base_modules",
    "block_linear",
    "block_of",
    "block_parts",
    "ends",
    "fused_weights",
    "input_size",
    "is_linear",
    "match_modules",
    "modules_at",
    "output_size",
    "parametrized",
    "read_past",
    "transformers_models",
]
