"""Faults that the probe of all methods on all families has found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError, TargetError
from pefttools.sites import all_linear
from pefttools.testing.further import check_exported
from pefttools.testing.methods import trained_subject
from tests.families import make_family


def _llm(family: str, folder: Path, **method: object) -> tuple[str, Path]:
    base = make_family(family, folder / "base")
    model = pefttools.wrap(base, {"name": "lora", "r": 4, **method}, task="causal-lm", precision="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    pefttools.save(model, folder / "artifact")
    return base, folder / "artifact"


def test_an_export_that_peft_would_put_on_routed_experts_is_refused(tmp_path: Path) -> None:
    """PEFT takes shared experts' and dense layers' names for those that routed experts had in transformers 4."""
    _, artifact = _llm("deepseek", tmp_path)
    with pytest.raises(ConfigError, match=r"PEFT would take .*mlp.* for routed experts"):
        pefttools.export(artifact, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_an_export_of_attention_alone_is_not(tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base, artifact = _llm("deepseek", tmp_path, targets=["o_proj"])
    pefttools.export(artifact, tmp_path / "plain")
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "plain").eval()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        wanted = pefttools.load(artifact).transformer(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_an_export_of_pictures_names_no_task_that_peft_does_not_know(tiny_vit: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModel

    task = {"name": "image-classification", "head": "mean"}
    model = pefttools.wrap(tiny_vit, {"name": "lora", "r": 4}, task=task, labels=["a", "b"], precision="float32")
    pefttools.save(model, tmp_path / "artifact")
    pefttools.export(tmp_path / "artifact", tmp_path / "plain")
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "plain")).task_type is None
    peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_vit), tmp_path / "plain")


@pytest.mark.parametrize("family", ["mamba", "falcon-h1"])
def test_layers_that_a_gpu_kernel_reads_past_are_no_targets(family: str, tmp_path: Path) -> None:
    base = make_family(family, tmp_path)
    model = pefttools.wrap(base, "lora", task="causal-lm", precision="float32")
    adapted = {name.split(".lora_A")[0] for name, _ in model.transformer.named_parameters() if ".lora_A." in name}
    assert any(name.endswith("in_proj") for name in adapted)
    assert not [name for name in adapted if name.endswith(("x_proj", "dt_proj"))]
    assert not [name for name in adapted if name.endswith(".out_proj")]
    assert len(adapted) == len(all_linear(pefttools.wrap(base, "full", task="causal-lm").transformer))
    with pytest.raises(TargetError, match="does not call"):
        pefttools.wrap(base, {"name": "lora", "targets": ["out_proj"]}, task="causal-lm", precision="float32")


@pytest.mark.parametrize("family", ["deberta-v2", "mpnet", "albert"])
def test_the_parts_of_their_blocks_are_known(family: str, tmp_path: Path) -> None:
    base = make_family(family, tmp_path)
    for method in ("ia3", {"name": "bottleneck", "size": 4}, {"name": "reft", "r": 2}, "beft"):
        model = pefttools.wrap(base, method, labels=["a", "b"], precision="float32")
        assert model.count().trainable > model.count().head


def test_a_plan_says_of_no_number_that_it_is_infinite(tiny_bert: str) -> None:
    """VB-LoRA asks in training whether its logits are."""
    (row,) = pefttools.plan(tiny_bert, methods=["vblora"], batch_size=2, length=8)
    model = pefttools.wrap(tiny_bert, "vblora", labels=["a", "b"], precision="float32")
    assert row.trainable_parameters == model.count().trainable


def test_an_export_says_what_there_is_none_of(tiny_bert: str, tmp_path: Path) -> None:
    model = pefttools.wrap(tiny_bert, "ln_tuning", labels=["a", "b"], precision="float32")
    pefttools.save(model, tmp_path / "artifact")
    with pytest.raises(ConfigError, match="trains at most whole modules: there is no LoRA to export"):
        pefttools.export(tmp_path / "artifact", tmp_path / "plain")


@pytest.mark.parametrize("name", ["oft", "gralora"])
def test_layers_that_take_no_inputs_of_four_dimensions_are_refused(name: str, tmp_path: Path) -> None:
    base = make_family("deepseek", tmp_path)
    with pytest.raises(ConfigError, match=rf"the method {name!r} can't be used on .*kv_b_proj"):
        pefttools.wrap(base, name, task="causal-lm")
    pefttools.wrap(base, {"name": name, "targets": ["o_proj"]}, task="causal-lm")


def test_an_export_reads_the_change_where_it_was_trained(tiny_bert: str, tmp_path: Path) -> None:
    """AdaMSS's change is made of the base's own numbers, which are others in bfloat16."""
    task = {"name": "sequence-classification", "head": "mean"}
    subject = trained_subject(
        "adamss", base=tiny_bert, folder=tmp_path, task=task, labels=["a", "b", "c"], variant="bfloat16"
    )
    assert check_exported(subject).status == "works"


def test_layers_that_a_mixer_calls_are_targets() -> None:
    """A gated delta rule has an A_log too, and calls all of its layers."""
    import transformers as t

    from pefttools.sites import block_linear, match_modules, read_past

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 48, "vocab_size": 99}  # fmt: skip
    with torch.device("meta"):
        model = t.Qwen3NextModel(t.Qwen3NextConfig(**sizes, layer_types=["linear_attention", "full_attention"]))
        mamba = t.MambaModel(t.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=99))
    assert not read_past(model) and all_linear(model) == block_linear(model)
    assert match_modules(model, ["in_proj_qkvz"], option="lora.targets")
    assert {name.rpartition(".")[2] for name in read_past(mamba)} == {"x_proj", "dt_proj", "out_proj"}
    assert len(block_linear(mamba)) == 4  # all of them are stored in few bits where the base is


def test_an_int8_layer_runs_on_after_its_weight_was_read(tiny_gpt2: str) -> None:
    from pefttools.deltas.weights import dense_weight

    model = pefttools.wrap(tiny_gpt2, "untuned", task="causal-lm", variant="int8", precision="float32")
    batch = {"input_ids": torch.arange(5, 17)[None]}
    before = model.run_batch(dict(batch))
    layers = [module for module in model.transformer.modules() if hasattr(module, "state")]
    weights = [dense_weight(layer) for layer in layers]
    assert layers and torch.equal(model.run_batch(dict(batch)), before)
    assert all(torch.equal(dense_weight(layer), weight) for layer, weight in zip(layers, weights, strict=True))


def test_a_norm_in_float32_on_a_base_in_bfloat16_does_not_stop_packing(tiny_llama: str) -> None:
    """Whether texts may share a row is tried in the precision that the training has."""
    model = pefttools.wrap(tiny_llama, "ln_tuning", task="causal-lm", variant="bfloat16")
    assert model.spec.task.why_padded(model) is None
    assert model.spec.task.packs(model)


def test_frod_is_refused_where_its_basis_would_be_another_one_elsewhere(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="'frod' can't be used with the variant 'bfloat16'"):
        pefttools.wrap(tiny_llama, "frod", task="causal-lm", variant="bfloat16")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_two_continuations_may_part_at_a_tie_alone(kind: torch.dtype, tiny_llama: str) -> None:
    """What is as likely but for rounding may be chosen either way; what is not may not."""
    from pefttools.testing.writing import _tied

    variant = "float32" if kind == torch.float32 else "bfloat16"
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm", variant=variant, precision="float32")
    ids = torch.tensor([[5, 6, 7]])
    order = model.run_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0, -1].argsort()
    best, worst = int(order[-1]), int(order[0])
    assert not _tied(model, [5, 6, 7], [best, 1], [worst, 1])
    with torch.no_grad():
        head = model.transformer.get_output_embeddings().weight  # type: ignore[operator]
        head[worst] = head[best]
    assert _tied(model, [5, 6, 7], [best, 1], [worst, 1])


@pytest.mark.parametrize("variant", ["int8", "nf4", "hqq", "torchao-int8"])
def test_layers_that_a_mixer_only_reads_are_not_packed(variant: str, tmp_path: Path) -> None:
    """It would take packed bytes for numbers."""
    from pefttools.bases.unquantized import is_packed
    from pefttools.eval.probing.families import make_bench

    base = make_bench("mamba", tmp_path).base
    model = pefttools.wrap(base, "lora", task="causal-lm", variant=variant, precision="float32")
    packed = {
        name.split(".mixer.")[1].split(".")[0]
        for name, module in model.transformer.named_modules()
        if ".mixer." in name and is_packed(getattr(module, "weight", torch.zeros(0)))
    }
    assert packed == {"in_proj"}
    batch = dict(model.tokenizer(["a short text"], return_tensors="pt"))
    assert model.run_batch(batch).isfinite().all()


@pytest.mark.parametrize("variant", ["hqq", "torchao-int8"])
def test_a_model_whose_embeddings_are_not_found_is_refused_before_loading(variant: str, tiny_clip: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{variant}' can't be used with a CLIPModel: transformers does not find"):
        pefttools.wrap(tiny_clip, "lora", task={"name": "image-text-retrieval"}, variant=variant)


def test_a_norm_trained_in_float32_is_not_rounded_on_a_base_in_16_bits(tiny_llama: str, tmp_path: Path) -> None:
    """Near one, bfloat16 knows no number between 1 and 1.0078: most of what a norm learns would be lost."""
    model = pefttools.wrap(tiny_llama, "ln_tuning", task="causal-lm", variant="bfloat16")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.linspace(0.0005, 0.003, parameter.numel()))
    pefttools.save(model, tmp_path / "artifact")
    loaded = dict(pefttools.load(tmp_path / "artifact").named_parameters())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    for name, parameter in trained.items():
        assert torch.equal(loaded[name], parameter), name


def test_a_replaced_norm_is_not_rounded_in_a_pool_either() -> None:
    from pefttools.deltas import Replace

    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.LayerNorm(64).bfloat16()
    weight = 1 + 0.003 * torch.randn(64, generator=generator)
    x = torch.randn(2, 5, 64, generator=generator).bfloat16()
    found = Replace({"weight": weight}).alone(norm)(x, norm(x))
    exact = torch.nn.functional.layer_norm(x.float(), (64,), weight, norm.bias.float())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    rounded = torch.nn.functional.layer_norm(x.float(), (64,), weight.bfloat16().float(), norm.bias.float())
    assert not torch.equal(found, rounded.bfloat16())
