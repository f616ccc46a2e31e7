"""BitFit trains what really acts as a bias, wherever it is read, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.adapters.bitfit import BitFit, BitFitConfig
from pefttools.adapters.own import WEIGHTS
from pefttools.errors import ArtifactError, ConfigError
from pefttools.methods import Target
from pefttools.tasks.language.language_head import without_head
from tests.conftest import save_base

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}
HEADS = {"num_attention_heads": 2, "intermediate_size": 64, "num_key_value_heads": 2}


def _models() -> dict[str, Any]:
    import transformers as t

    torch.manual_seed(0)
    return {
        "mamba": t.MambaForCausalLM(t.MambaConfig(**SMALL)),
        "mamba2": t.Mamba2ForCausalLM(
            t.Mamba2Config(**SMALL, num_heads=4, head_dim=16, expand=2, n_groups=2, state_size=8)
        ),
        "falcon-h1": t.FalconH1ForCausalLM(
            t.FalconH1Config(**SMALL, **HEADS, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8)
        ),
        "xlnet": t.XLNetLMHeadModel(t.XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64, vocab_size=99)),
        "phi": t.PhiForCausalLM(t.PhiConfig(**SMALL, **HEADS)),
        "gpt-oss": t.GptOssForCausalLM(
            t.GptOssConfig(**SMALL, **HEADS, num_local_experts=4, head_dim=16, num_experts_per_tok=2)
        ),
        "bert-lm": t.BertLMHeadModel(
            t.BertConfig(**SMALL, num_attention_heads=2, intermediate_size=64, is_decoder=True)
        ),
    }


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon-h1", "xlnet", "phi", "gpt-oss", "bert-lm"])
def test_every_trained_bias_gets_a_gradient_and_merges_exactly(family: str) -> None:
    model = _models()[family]
    inputs = {"input_ids": torch.randint(5, 90, (3, 16))}
    if family == "xlnet":  # its bias of segments acts where there are segments
        inputs["token_type_ids"] = torch.arange(16).expand(3, 16) % 2
    tuned = BitFit().wrap(model.requires_grad_(False), BitFitConfig(), Target("causal-lm", "CAUSAL_LM")).eval()
    trained = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    tuned(**inputs).logits.square().mean().backward()
    assert not [name for name, p in trained.items() if p.grad is None or not bool(p.grad.any())]

    base = _models()[family].eval()
    for index, (name, delta) in enumerate(trained.items()):
        torch.nn.init.normal_(delta, std=0.1, generator=torch.Generator().manual_seed(index))
        base.get_parameter(name.removesuffix("_delta")).data.add_(delta.detach())
    with torch.no_grad():
        wanted = base(**inputs).logits
        torch.testing.assert_close(tuned(**inputs).logits, wanted)
        merged = BitFit().merge(tuned)
        torch.testing.assert_close(merged(**inputs).logits, wanted, rtol=0, atol=0)
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert all(type(a) is type(b) for a, b in zip(merged.modules(), base.modules(), strict=True))


def test_biases_of_other_names_are_trained() -> None:
    names = {
        family: {
            name.rpartition(".")[2]
            for name, p in BitFit()
            .wrap(_models()[family].requires_grad_(False), BitFitConfig(), Target("t", "CAUSAL_LM"))
            .named_parameters()
            if p.requires_grad
        }
        for family in ("xlnet", "mamba2", "gpt-oss")
    }
    assert {"r_w_bias_delta", "r_r_bias_delta"} < names["xlnet"]
    assert "r_s_bias_delta" not in names["xlnet"]  # it acts on segments alone, which a single text has none of
    assert "dt_bias_delta" in names["mamba2"]
    assert {"gate_up_proj_bias_delta", "down_proj_bias_delta"} < names["gpt-oss"]


def test_the_loss_in_pieces_trains_the_bias_of_phis_head(tmp_path: Path) -> None:
    import transformers as t

    config = t.PhiConfig(**{**SMALL, "vocab_size": 30522}, **HEADS, bos_token_id=101, eos_token_id=102, pad_token_id=0)
    base = save_base(t.PhiForCausalLM(config), tmp_path / "base")
    model = pefttools.wrap(base, "bitfit", task="causal-lm", precision="float32")
    rows = [{"prompt": "a short text", "completion": "an answer"}, {"prompt": "b", "completion": "another answer"}]
    table = pefttools.data.Table("t", rows, {"prompt": "prompt", "completion": "completion"}, range(2))
    task = model.spec.task
    batch = task.collate(task.encode(table, model.tokenizer, []), model.tokenizer)
    labels = batch.pop("labels")
    model.train()
    model(**batch, targets=labels).backward()
    in_pieces = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert "lm_head.bias_delta" in {name.removeprefix("transformer.") for name in in_pieces}
    model.zero_grad()
    task.loss(model.transformer(**batch).logits, labels).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(in_pieces[name], p.grad, rtol=1e-3, atol=1e-6)


def test_hooks_of_a_head_wait_for_the_pieces() -> None:
    head = torch.nn.Linear(4, 9)
    head.register_forward_hook(lambda module, args, output: output + torch.arange(9.0))
    x = torch.ones(1, 2, 4)
    states, whole = without_head(head, lambda: head(x))
    assert whole and states.shape == x.shape
    torch.testing.assert_close(head(x), torch.nn.functional.linear(x, head.weight, head.bias) + torch.arange(9.0))


@pytest.mark.parametrize("family", ["phi", "bert-lm"])
def test_a_bias_that_is_a_summand_has_a_delta_form(family: str) -> None:
    wrapped = BitFit().wrap(_models()[family].requires_grad_(False), BitFitConfig(), Target("t", "CAUSAL_LM"))
    state = {name: p.detach() for name, p in wrapped.named_parameters() if p.requires_grad}
    assert len(BitFit().site_deltas(state, _models()[family], BitFitConfig())) == len(state)


@pytest.mark.parametrize("family", ["mamba", "falcon-h1", "xlnet", "gpt-oss"])
def test_a_bias_that_is_no_summand_of_an_output_has_no_delta_form(family: str) -> None:
    model = _models()[family]
    wrapped = BitFit().wrap(_models()[family].requires_grad_(False), BitFitConfig(), Target("t", "CAUSAL_LM"))
    state = {name: p.detach() for name, p in wrapped.named_parameters() if p.requires_grad}
    with pytest.raises(ConfigError, match="is not simply added to a layer's output") as caught:
        BitFit().site_deltas(state, model, BitFitConfig())
    assert "bitfit.targets" in (caught.value.hint or "")


def test_files_that_lack_the_biases_of_other_names_are_loaded(tmp_path: Path) -> None:
    def wrapped() -> Any:
        model = _models()["xlnet"].requires_grad_(False)
        return BitFit().wrap(model, BitFitConfig(), Target("t", "CAUSAL_LM"))

    model = wrapped()
    for name, p in model.named_parameters():
        if p.requires_grad and not name.endswith("_bias_delta"):
            torch.nn.init.normal_(p)
    BitFit().save(model, tmp_path, "base")
    state = load_file(tmp_path / WEIGHTS)
    older = {name: tensor for name, tensor in state.items() if not name.endswith("_bias_delta")}
    assert len(older) < len(state)
    save_file(older, tmp_path / WEIGHTS)
    fresh = _models()["xlnet"].requires_grad_(False)
    loaded = BitFit().load(fresh, tmp_path, BitFitConfig(), Target("t", "CAUSAL_LM"))
    ids = torch.randint(5, 90, (2, 8))
    torch.testing.assert_close(loaded.eval()(ids).logits, model.eval()(ids).logits)

    older.popitem()
    save_file(older, tmp_path / WEIGHTS)
    with pytest.raises(ArtifactError, match="does not fit the model: missing"):
        BitFit().load(_models()["xlnet"].requires_grad_(False), tmp_path, BitFitConfig(), Target("t", "CAUSAL_LM"))
