"""Bottleneck adapters by their published formulas, written out; and those of older artifacts by what they were."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pefttools
from pefttools.adapters.bottleneck import BottleneckAdapters, BottleneckConfig
from pefttools.artifact.manifest import SCHEMA, read_manifest, write_manifest
from pefttools.errors import ConfigError, TargetError
from pefttools.methods import Target

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}
WIDE = {**SMALL, "num_attention_heads": 2, "intermediate_size": 64}
TARGET = Target("t", "FEATURE_EXTRACTION")


def _opt(before: bool) -> Any:
    import transformers as t

    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "vocab_size": 99, "hidden_size": 32}
    return t.OPTModel(t.OPTConfig(**small, word_embed_proj_dim=32, do_layer_norm_before=before))


def _models() -> dict[str, Callable[[], Any]]:
    import transformers as t

    distilbert = t.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=99)
    return {
        "bert": lambda: t.BertModel(t.BertConfig(**WIDE)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**WIDE)),
        "distilbert": lambda: t.DistilBertModel(distilbert),
        "opt-post": lambda: _opt(False),
        "opt": lambda: _opt(True),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**WIDE)),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)),
        "gemma2": lambda: t.Gemma2Model(t.Gemma2Config(**WIDE, num_key_value_heads=2, head_dim=16)),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(**WIDE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
        ),
        "bloom": lambda: t.BloomModel(t.BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=99)),
    }


#: family -> feed-forward output, norm that ends the block (none: a pre-norm block) and the block, all of layer 1
SITES = {
    "bert": ("encoder.layer.1.output.dense", "encoder.layer.1.output.LayerNorm", "encoder.layer.1"),
    "roberta": ("encoder.layer.1.output.dense", "encoder.layer.1.output.LayerNorm", "encoder.layer.1"),
    "distilbert": ("transformer.layer.1.ffn.lin2", "transformer.layer.1.output_layer_norm", "transformer.layer.1"),
    "opt-post": ("decoder.layers.1.fc2", "decoder.layers.1.final_layer_norm", "decoder.layers.1"),
    "opt": ("decoder.layers.1.fc2", None, "decoder.layers.1"),
    "llama": ("layers.1.mlp.down_proj", None, "layers.1"),
    "gpt2": ("h.1.mlp.c_proj", None, "h.1"),
    "gemma2": ("layers.1.post_feedforward_layernorm", None, "layers.1"),
    "modernbert": ("layers.1.mlp.Wo", None, "layers.1"),
    "bloom": ("h.1.mlp.dense_4h_to_h", None, "h.1"),
}
#: what the residual is before a pre-norm block's feed-forward sub-layer: the input of this norm
NORMS = {
    "opt": "decoder.layers.1.final_layer_norm",
    "llama": "layers.1.post_attention_layernorm",
    "gpt2": "h.1.ln_2",
    "gemma2": "layers.1.pre_feedforward_layernorm",
    "modernbert": "layers.1.mlp_norm",
    "bloom": "h.1.post_attention_layernorm",
}


def _random(model: nn.Module) -> nn.Module:
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if "bottleneck" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return model.eval()


def _states(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("family", SITES)
def test_pfeiffer_is_the_published_formula(family: str) -> None:
    torch.manual_seed(0)
    base = _models()[family]().requires_grad_(False)
    model = _random(BottleneckAdapters().wrap(base, BottleneckConfig(placement="pfeiffer", size=8), TARGET))
    write, norm_name, block_name = SITES[family]
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> None:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args:
                seen.setdefault(f"{name} in", args[0])
            seen[name] = _states(output)

        model.get_submodule(name).register_forward_hook(hook)

    for name in {write, norm_name or NORMS[family], block_name}:
        keep(name)
    with torch.no_grad():
        model(input_ids=torch.randint(5, 90, (2, 7)))
        y = seen[write]
        adapter = model.get_submodule(f"{norm_name or block_name}.bottleneck")

        def up_relu_down(h: torch.Tensor) -> torch.Tensor:
            down = torch.relu(h @ adapter.down.weight.T + adapter.down.bias)
            return down @ adapter.up.weight.T + adapter.up.bias

        if norm_name is None:
            x = seen[f"{NORMS[family]} in"]
            wanted = up_relu_down(y + x) + y + x
        else:
            norm: Any = model.get_submodule(norm_name)
            total = seen[f"{norm_name} in"]  # y + x

            def layer_norm(h: torch.Tensor) -> torch.Tensor:
                return nn.functional.layer_norm(h, h.shape[-1:], norm.weight, norm.bias, norm.eps)

            assert not torch.allclose(total, y.view_as(total))  # OPT flattens texts
            wanted = layer_norm(up_relu_down(layer_norm(total)) + total)
        assert float((wanted - (y + x if norm_name is None else layer_norm(total))).abs().max()) > 0.05
        torch.testing.assert_close(seen[block_name].view_as(wanted), wanted)


def test_the_sum_in_bert_is_of_output_and_residual() -> None:
    """What the formula calls y + x, from the block's own parts."""
    base = _models()["bert"]().requires_grad_(False)
    model = _random(BottleneckAdapters().wrap(base, BottleneckConfig(placement="pfeiffer", size=8), TARGET))
    layer = model.get_submodule("encoder.layer.1")
    x, y, block = [], [], []
    layer.intermediate.register_forward_pre_hook(lambda module, args: x.append(args[0]))
    layer.output.dense.register_forward_hook(lambda module, args, output: y.append(output))
    layer.register_forward_hook(lambda module, args, output: block.append(_states(output)))
    adapter, norm = layer.output.LayerNorm.bottleneck, layer.output.LayerNorm.forward
    with torch.no_grad():
        model(input_ids=torch.randint(5, 90, (2, 7)))
        inner = adapter.up(torch.relu(adapter.down(norm(y[0] + x[0]))))
        torch.testing.assert_close(block[0], norm(inner + y[0] + x[0]))


def test_defaults_are_those_that_were_published_with_a_placement() -> None:
    def of(**options: Any) -> tuple[str, float]:
        config = BottleneckConfig.model_validate(options)
        return config.activation, config.scale

    assert of() == of(placement="houlsby") == of(placement="feed-forward") == ("gelu", 1.0)
    assert of(placement="pfeiffer") == ("relu", 1.0)
    assert of(placement="parallel") == ("relu", 4.0)
    assert of(placement="parallel", scale=1.0, activation="gelu") == ("gelu", 1.0)


def test_targets_of_pfeiffer_are_norms() -> None:
    model = _models()["bert"]().requires_grad_(False)
    config = BottleneckConfig(placement="pfeiffer", targets=["output.dense"])
    with pytest.raises(TargetError, match=r"output\.dense is a Linear; for the placement 'pfeiffer'"):
        BottleneckAdapters().wrap(model, config, TARGET)
    config = BottleneckConfig(placement="pfeiffer", targets=["*.layer.1.output.LayerNorm"])
    wrapped = BottleneckAdapters().wrap(model, config, TARGET)
    trained = {name.rpartition(".bottleneck")[0] for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained == {"encoder.layer.1.output.LayerNorm"}


@pytest.fixture
def older(tiny_bert: str, tmp_path: Path) -> tuple[Path, Path]:
    """An artifact of the placement feed-forward, and the same as 0.1 wrote it: as pfeiffer, with the schema 1.0."""
    method = {"name": "bottleneck", "placement": "feed-forward", "size": 8}
    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(tiny_bert, method, task=task, labels=["a", "b"], precision="float32")
    _random(model)
    new, old = tmp_path / "new", tmp_path / "old"
    pefttools.save(model, new)
    shutil.copytree(new, old)
    manifest = read_manifest(old)
    entry = manifest.method.model_copy(update={"config": {**manifest.method.config, "placement": "pfeiffer"}})
    write_manifest(old, manifest.model_copy(update={"schema_version": "1.0", "method": entry}))
    return new, old


def _logits(model: Any) -> torch.Tensor:
    return model.run_batch(dict(model.tokenizer("a short text", return_tensors="pt")))


def test_what_0_1_called_pfeiffer_keeps_its_function(older: tuple[Path, Path]) -> None:
    new, old = older
    wanted = _logits(pefttools.load(new))
    with pytest.warns(UserWarning, match="now called 'feed-forward'") as caught:
        loaded = pefttools.load(old)
    assert sum("feed-forward" in str(one.message) for one in caught) == 1
    assert loaded.spec.config.placement == "feed-forward"
    torch.testing.assert_close(_logits(loaded), wanted, rtol=0, atol=0)


def test_a_pool_and_a_training_take_it_for_what_it_is(older: tuple[Path, Path], tiny_bert: str) -> None:
    from pefttools.training.start import open_parent

    new, old = older
    wanted = _logits(pefttools.load(new))
    pool = pefttools.AdapterPool(tiny_bert)
    with pytest.warns(UserWarning, match="now called 'feed-forward'"):
        pool.load("old", old)
    found = pool(["a short text"], ["old"])[0].logits
    assert found is not None
    torch.testing.assert_close(torch.as_tensor(found), wanted[0], rtol=1e-4, atol=1e-5)
    spec = pefttools.load(new).spec
    with pytest.warns(UserWarning, match="now called 'feed-forward'"):
        open_parent(old, spec.base, spec.method, spec.config, spec.task)
    published = spec.config.model_copy(update={"placement": "pfeiffer"})
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"placement='feed-forward'.*'pfeiffer'"):
        open_parent(old, spec.base, spec.method, published, spec.task)


def test_an_artifact_of_today_loads_as_it_says(tiny_bert: str, tmp_path: Path) -> None:
    method = {"name": "bottleneck", "placement": "pfeiffer", "size": 8}
    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(tiny_bert, method, task=task, labels=["a", "b"], precision="float32")
    _random(model)
    pefttools.save(model, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "pefttools.json").read_text())["schema_version"] == SCHEMA
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*feed-forward")
        loaded = pefttools.load(tmp_path / "a")
    torch.testing.assert_close(_logits(loaded), _logits(model), rtol=0, atol=0)


def _many() -> list[Any]:
    import transformers as t

    bart = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99, "pad_token_id": 0}
    bart |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    t5 = t.T5Config(d_model=32, num_layers=1, num_heads=2, d_ff=64, d_kv=16, vocab_size=99)
    one = {**WIDE, "num_hidden_layers": 1}
    with torch.device("meta"):
        return [
            pytest.param(
                t.BartModel(t.BartConfig(**bart)),
                {"encoder.layers.0.final_layer_norm", "decoder.layers.0.final_layer_norm"},
                id="bart",
            ),
            pytest.param(t.MBartModel(t.MBartConfig(**bart)), {"encoder.layers.0", "decoder.layers.0"}, id="mbart"),
            pytest.param(t.T5Model(t5), {"encoder.block.0.layer.1", "decoder.block.0.layer.2"}, id="t5"),
            pytest.param(t.PhiModel(t.PhiConfig(**one)), {"layers.0"}, id="phi"),
            pytest.param(
                t.RobertaPreLayerNormModel(t.RobertaPreLayerNormConfig(**one)), {"encoder.layer.0"}, id="pre-norm"
            ),
        ]


@pytest.mark.parametrize(("model", "wanted"), _many())
def test_pfeiffer_finds_the_norm_that_ends_a_block_or_takes_the_block(model: Any, wanted: set[str]) -> None:
    wrapped = BottleneckAdapters().wrap(model, BottleneckConfig(placement="pfeiffer"), TARGET)
    assert {
        name.rpartition(".bottleneck")[0] for name, _ in wrapped.named_parameters() if "bottleneck" in name
    } == wanted


def test_an_artifact_without_adapters_between_the_sides_still_loads(tiny_bart: str, tmp_path: Path) -> None:
    """As those are that were made before a decoder's attention to its encoder had an adapter."""
    from safetensors.torch import load_file, save_file

    task = {"name": "sequence-classification", "head": "model"}
    model = pefttools.wrap(tiny_bart, "bottleneck", task=task, labels=["a", "b"], precision="float32")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "encoder_attn" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    wanted = pefttools.predict(model, ["a text", "another one"])
    plugin, spec = model.spec.method, model.spec
    plugin.save(model.transformer, tmp_path, "base")
    state = load_file(tmp_path / "adapter_model.safetensors")
    older = {name: tensor for name, tensor in state.items() if "encoder_attn" not in name}
    assert len(older) < len(state)
    save_file(older, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    built = spec.task.build(spec.base, spec.variant, spec.labels)
    again = plugin.load(built.transformer, tmp_path, spec.config, spec.target)
    loaded = pefttools.TunedModel(again, None, spec, model.processor, None).eval()
    assert pefttools.predict(loaded, ["a text", "another one"]) == wanted
