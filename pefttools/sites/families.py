"""What the parts of a transformer block are called, by family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockParts:
    """Names of a transformer block's linear layers, relative to the block.

    Attributes:
        keys_values: projections to keys and values.
        attention_output: the projection that ends the attention sub-layer.
        feed_forward_input: the first projections of the feed-forward sub-layer.
        feed_forward_output: the projection that ends the feed-forward sub-layer.
        final_norm: in families of post-norm blocks, the norm that ends the block.
        cross_keys_values: the same projections of a decoder's attention to an encoder's states, which only some blocks
            of such models have.
        cross_attention_output: the projection that ends that attention.
    """

    keys_values: tuple[str, ...]
    attention_output: str
    feed_forward_input: tuple[str, ...]
    feed_forward_output: str
    final_norm: str | None = None
    cross_keys_values: tuple[str, ...] = ()
    cross_attention_output: str | None = None

    @property
    def all_keys_values(self) -> tuple[str, ...]:
        """Projections to keys and values of both attentions."""
        return (*self.keys_values, *self.cross_keys_values)

    @property
    def attention_outputs(self) -> tuple[str, ...]:
        """The projections that end the attention sub-layers."""
        cross = self.cross_attention_output
        return (self.attention_output,) if cross is None else (self.attention_output, cross)


_BART_CROSS = (("encoder_attn.k_proj", "encoder_attn.v_proj"), "encoder_attn.out_proj")
_T5_CROSS = (("EncDecAttention.k", "EncDecAttention.v"), "EncDecAttention.o")
#: By family; the first whose every part is in the model is used. Another family takes one line here.
FAMILIES = {
    "bert": BlockParts(
        ("attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "deberta-v2": BlockParts(
        ("attention.self.key_proj", "attention.self.value_proj"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "mpnet": BlockParts(
        ("attention.attn.k", "attention.attn.v"),
        "attention.attn.o",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "albert": BlockParts(
        ("attention.key", "attention.value"), "attention.dense", ("ffn",), "ffn_output", "full_layer_layer_norm"
    ),
    "vit": BlockParts(
        ("attention.attention.key", "attention.attention.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
    ),
    "vit-5": BlockParts(("attention.k_proj", "attention.v_proj"), "attention.o_proj", ("mlp.fc1",), "mlp.fc2"),
    "wav2vec2": BlockParts(
        ("attention.k_proj", "attention.v_proj"),
        "attention.out_proj",
        ("feed_forward.intermediate_dense",),
        "feed_forward.output_dense",
    ),
    "distilbert": BlockParts(
        ("attention.k_lin", "attention.v_lin"), "attention.out_lin", ("ffn.lin1",), "ffn.lin2", "output_layer_norm"
    ),
    "llama": BlockParts(
        ("self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"
    ),
    "phi3": BlockParts(("self_attn.qkv_proj",), "self_attn.o_proj", ("mlp.gate_up_proj",), "mlp.down_proj"),
    "phi": BlockParts(("self_attn.k_proj", "self_attn.v_proj"), "self_attn.dense", ("mlp.fc1",), "mlp.fc2"),
    "clip": BlockParts(("self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj", ("mlp.fc1",), "mlp.fc2"),
    "bart": BlockParts(
        ("self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        ("fc1",),
        "fc2",
        "final_layer_norm",
        *_BART_CROSS,
    ),
    "gpt2": BlockParts(("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    "gpt-neox": BlockParts(
        ("attention.query_key_value",), "attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    ),
    "bloom": BlockParts(
        ("self_attention.query_key_value",), "self_attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    ),
    "modernbert": BlockParts(("attn.Wqkv",), "attn.Wo", ("mlp.Wi",), "mlp.Wo"),
    "t5": BlockParts(
        ("SelfAttention.k", "SelfAttention.v"),
        "SelfAttention.o",
        ("DenseReluDense.wi",),
        "DenseReluDense.wo",
        None,
        *_T5_CROSS,
    ),
    "t5-gated": BlockParts(
        ("SelfAttention.k", "SelfAttention.v"),
        "SelfAttention.o",
        ("DenseReluDense.wi_0", "DenseReluDense.wi_1"),
        "DenseReluDense.wo",
        None,
        *_T5_CROSS,
    ),
}
