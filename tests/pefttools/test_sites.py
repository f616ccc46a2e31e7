"""Module patterns: what they match, and what is said where they match nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pefttools.errors import TargetError
from pefttools.sites import ALL_LINEAR, all_linear, block_parts, ends, match_modules, modules_at


def _models() -> list[Any]:
    import transformers as t

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 99,
    }
    with torch.device("meta"):
        return [
            t.BertModel(t.BertConfig(**small)),
            t.RobertaModel(t.RobertaConfig(**small)),
            t.LlamaForCausalLM(t.LlamaConfig(**small)),
            t.MistralForCausalLM(t.MistralConfig(**small, num_key_value_heads=2)),
            t.Qwen2ForCausalLM(t.Qwen2Config(**small, num_key_value_heads=2)),
            t.Phi3ForCausalLM(t.Phi3Config(**small, pad_token_id=0)),
            t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)),
            t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**small)),
            t.OPTForCausalLM(
                t.OPTConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    ffn_dim=64,
                    vocab_size=99,
                    word_embed_proj_dim=32,
                )
            ),
            t.DistilBertModel(t.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=99)),
            t.ModernBertModel(t.ModernBertConfig(**small, pad_token_id=0)),
            t.T5ForConditionalGeneration(
                t.T5Config(d_model=32, num_layers=2, num_heads=2, d_ff=64, d_kv=16, vocab_size=99)
            ),
            t.ViTModel(t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)),
            t.WhisperForConditionalGeneration(
                t.WhisperConfig(
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=64,
                    decoder_ffn_dim=64,
                    vocab_size=99,
                    pad_token_id=0,
                    decoder_start_token_id=1,
                )
            ),
        ]


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.config.model_type)
def test_the_parts_of_many_architectures_are_known(model: Any) -> None:
    parts = block_parts(model)
    count = len(modules_at(model, parts.feed_forward_output))
    assert count >= 2 and count % 2 == 0
    assert len(modules_at(model, parts.attention_output)) >= count
    assert len(modules_at(model, parts.feed_forward_input[0])) == count


def test_heads_and_poolers_are_no_blocks(tiny_bert: str) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    names = all_linear(model)
    assert len(names) == 12
    assert not any("classifier" in name or "pooler" in name for name in names)


def test_patterns(tiny_bert: str) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_bert)
    assert len(match_modules(model, ["query"], option="o")) == 2
    assert match_modules(model, ["*.layer.0.*query"], option="o") == ["encoder.layer.0.attention.self.query"]
    # The end of a name is cut at a dot only.
    with pytest.raises(TargetError, match="'uery' matches no linear layer") as caught:
        match_modules(model, ["query", "uery"], option="lora.targets")
    assert "Did you mean query" in (caught.value.hint or "")
    assert ends(match_modules(model, ["query", "value"], option="o"), model) == [
        "attention.self.query", "attention.self.value",
    ]  # fmt: skip
    # "output.dense" as an ending would take the attention's output too: full names are given instead.
    only = modules_at(model, "output.dense")
    assert ends(only, model) == sorted(only)
    with pytest.raises(TargetError, match="are not known"):
        block_parts(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def _mixtures() -> list[Any]:
    import transformers as t

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 99,
    }
    xlnet = t.XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64, vocab_size=99)
    with torch.device("meta"):
        return [
            # per layer: 4 projections of 32 x 32; 8 experts of 3 x 32 x 64
            pytest.param(t.MixtralForCausalLM(t.MixtralConfig(**small)), "8%", "down_proj, gate_up_proj"),
            pytest.param(
                t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**small, moe_intermediate_size=16, num_experts=8, head_dim=16)),
                "25%",
                "down_proj, gate_up_proj",
            ),
            # per layer: 2 projections of 32 x 64; 5 of 32 x 2 x 16, and the segments' 2 x 2 x 16
            pytest.param(t.XLNetModel(xlnet), "44%", "k, o, q, r, seg_embed, v"),
        ]


@pytest.mark.parametrize(("model", "share", "names"), _mixtures(), ids=["mixtral", "qwen3-moe", "xlnet"])
def test_all_linear_says_which_share_of_fused_blocks_it_covers(model: Any, share: str, names: str) -> None:
    with pytest.warns(UserWarning, match=rf"lora.targets: 'all-linear' covers {share} .* fused in {names}, "):
        match_modules(model, [ALL_LINEAR], option="lora.targets")


def test_all_linear_says_nothing_where_it_covers_all(recwarn: pytest.WarningsRecorder) -> None:
    import transformers as t

    with torch.device("meta"):
        model = t.OPTModel(t.OPTConfig(hidden_size=32, num_hidden_layers=2, ffn_dim=48, num_attention_heads=4))
    assert len(match_modules(model, [ALL_LINEAR], option="lora.targets")) == 12
    assert not [warning for warning in recwarn if "all-linear" in str(warning.message)]
