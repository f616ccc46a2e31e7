"""The algebra of deltas, and what is made of saved adapters with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pefttools
from pefttools.artifact.convert import site_norms
from pefttools.deltas import Bias, DeltaKind, Dense, InputScale, LowRank, OutputScale, SiteDelta, WeightScale
from pefttools.deltas.approximate import as_low_rank
from pefttools.deltas.merge import folded, weight_change
from pefttools.errors import ConfigError

from .pool.makers import TEXTS, alone, assert_close, make

TASK = {"name": "sequence-classification", "head": "mean"}


@st.composite
def deltas(draw: st.DrawFn) -> tuple[SiteDelta, int, int]:
    """A delta without bottleneck, and the sizes of its layer."""
    out, inputs, rank = (draw(st.integers(1, 7)) for _ in range(3))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor | None:
        return torch.randn(shape, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None

    a, b = some(rank, inputs), some(out, rank)
    parts: list[DeltaKind] = [] if a is None or b is None else [LowRank(a, b)]
    for kind, shape in ((InputScale, (inputs,)), (Dense, (out, inputs)), (WeightScale, (out,)), (OutputScale, (out,)),
                        (Bias, (out,))):  # fmt: skip
        if (tensor := some(*shape)) is not None:
            parts.append(kind(tensor))
    return SiteDelta(*draw(st.permutations(parts))), out, inputs


@given(deltas())
@settings(max_examples=200, deadline=None)
def test_folding_is_the_order_of_effects(case: tuple[SiteDelta, int, int]) -> None:
    delta, out, inputs = case
    layer = nn.Linear(inputs, out).double()
    x = torch.randn(5, inputs, dtype=torch.float64)
    scaled = x * part.vector if (part := delta.get(InputScale)) else x
    y = nn.functional.linear(scaled, layer.weight)
    if update := delta.get(LowRank):
        y = y + scaled @ (update.b @ update.a).T
    if dense := delta.get(Dense):
        y = y + scaled @ dense.change.T
    if scale := delta.get(WeightScale):
        y = y * scale.vector
    y = y + layer.bias
    if factor := delta.get(OutputScale):
        y = y * factor.vector
    if bias := delta.get(Bias):
        y = y + bias.vector
    merged = folded(dict(layer.named_parameters()), delta, "layer")
    assert torch.allclose(nn.functional.linear(x, merged["weight"], merged["bias"]), y, atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**16))
@settings(max_examples=100, deadline=None)
def test_truncation_error_is_what_is_lost(out: int, inputs: int, own: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    update = LowRank(torch.randn(own, inputs, generator=generator), torch.randn(out, own, generator=generator))
    found = as_low_rank(SiteDelta(update), torch.zeros(out, inputs), rank)
    assert found.update.rank <= max(rank, own if own <= rank else rank)
    lost = float(torch.linalg.matrix_norm(found.update.dense() - update.dense()))
    assert lost == pytest.approx(found.lost, abs=1e-4)
    assert float(torch.linalg.matrix_norm(update.dense())) == pytest.approx(found.norm, rel=1e-4, abs=1e-5)
    # Nothing of that rank is closer (Eckart and Young).
    values = torch.linalg.svdvals(update.dense())
    assert found.lost <= float(values[rank:].square().sum().sqrt()) + 1e-4


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_combined_updates_are_the_weighted_sum(weights: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        (LowRank(torch.randn(2 + i, 5, generator=generator), torch.randn(4, 2 + i, generator=generator)), weight)
        for i, weight in enumerate(weights)
    ]
    wanted = torch.stack([part.dense() * weight for part, weight in parts]).sum(0)
    assert torch.allclose(LowRank.summed(parts, "site").dense(), wanted, atol=1e-4)


def test_a_delta_that_does_nothing_changes_nothing() -> None:
    weight = torch.randn(3, 4)
    assert not weight_change(SiteDelta(), weight).any()


@pytest.mark.parametrize(("fixture", "head"), [("tiny_bert", "mean"), ("tiny_bert", "model"), ("tiny_gpt2", "lm")])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_exported_lora_is_what_peft_loads(
    fixture: str, head: str, number: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    base = request.getfixturevalue(fixture)
    artifact = make(base, head, "lora", number, tmp_path / "artifact")
    # The third is DoRA: a change of full rank, exact only with a rank that holds all of it.
    error = pefttools.export(artifact, tmp_path / "plain", rank=64 if number == 2 else None)
    assert error < 1e-5
    model = pefttools.load(artifact)
    auto = {"mean": AutoModel, "model": AutoModelForSequenceClassification, "lm": AutoModelForCausalLM}[head]
    options = {"num_labels": len(model.labels)} if head == "model" else {}
    plain = peft.PeftModel.from_pretrained(auto.from_pretrained(base, **options), str(tmp_path / "plain")).eval()
    inputs = model.tokenizer(TEXTS[1], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        if head == "mean":
            found = plain(**inputs).last_hidden_state
            wanted = model.transformer(**inputs).last_hidden_state
        else:
            found, wanted = plain(**inputs).logits, model.transformer(**inputs).logits
    assert_close(found, wanted)


def test_ia3_is_exported_with_its_error(tiny_bert: str, tmp_path: Path) -> None:
    artifact = make(tiny_bert, "mean", "ia3", 0, tmp_path / "artifact")
    with pytest.raises(ConfigError, match="a rank is needed"):
        pefttools.export(artifact, tmp_path / "plain")
    errors = [pefttools.export(artifact, tmp_path / f"r{rank}", rank=rank) for rank in (2, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("method", ["prefix", "prompt", "bottleneck", "bitfit"])
def test_what_is_no_change_of_linear_weights_is_refused(method: str, tiny_bert: str, tmp_path: Path) -> None:
    artifact = make(tiny_bert, "mean", method, 0, tmp_path / "artifact")
    with pytest.raises(ConfigError, match="cannot be expressed as LoRA"):
        pefttools.export(artifact, tmp_path / "plain", rank=8)
    assert not (tmp_path / "plain").exists()


def _lora(base: str, seed: int, folder: Path, **options: object) -> Path:
    model = pefttools.wrap(base, {"name": "lora", "r": 4, **options}, task=TASK, labels=["a", "b"], seed=seed,
                           precision="float32")  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    pefttools.save(model, folder)
    return folder


def test_composed_adapters_add_up(tiny_bert: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    one, two = (_lora(tiny_bert, seed, tmp_path / str(seed)) for seed in range(2))
    assert pefttools.compose([one, two], [0.6, 0.4], tmp_path / "both") == 0
    both = pefttools.load(tmp_path / "both")
    assert pefttools.inspect(tmp_path / "both").training["composed_of"][1] == {
        "artifact": "1", "method": "lora", "weight": 0.4,
    }  # fmt: skip

    def state(folder: str | Path) -> dict[str, torch.Tensor]:
        return dict(AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict())

    merged = [state(pefttools.merge(part, tmp_path / f"{part.name}-merged")) for part in (one, two)]
    base = state(tiny_bert)
    found = state(pefttools.merge(tmp_path / "both", tmp_path / "both-merged"))
    for name, value in found.items():
        wanted = base[name] + 0.6 * (merged[0][name] - base[name]) + 0.4 * (merged[1][name] - base[name])
        assert torch.allclose(value, wanted, atol=1e-5), name
    heads = [model.head.get_parameter("linear.weight") for model in (pefttools.load(one), pefttools.load(two), both)]
    assert torch.allclose(heads[2], 0.6 * heads[0] + 0.4 * heads[1], atol=1e-6)
    assert alone(both, TEXTS[0]).shape == (2,)


def test_a_composed_adapter_is_served_as_it_is_loaded(tiny_bert: str, tmp_path: Path) -> None:
    """IA3 changes biases too: they travel in the composed LoRA, and a pool must not leave them out."""
    lora, scales = (tmp_path / "lora", tmp_path / "ia3")
    _lora(tiny_bert, 0, lora)
    model = pefttools.wrap(tiny_bert, "ia3", task=TASK, labels=["a", "b"], precision="float32")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.add_(0.5)
    pefttools.save(model, scales)
    assert pefttools.compose([lora, scales], [0.5, 0.5], tmp_path / "both", rank=64) < 1e-5
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("both", tmp_path / "both")
    (answer,) = pool([TEXTS[1]], ["both"])
    assert answer.logits is not None
    assert_close(answer.logits, alone(pefttools.load(tmp_path / "both"), TEXTS[1]))


def test_compositions_that_make_no_sense(tiny_bert: str, tmp_path: Path) -> None:
    one = _lora(tiny_bert, 0, tmp_path / "one")
    other = make(tiny_bert, "mean", "lora", 1, tmp_path / "other")
    prefix = make(tiny_bert, "mean", "prefix", 0, tmp_path / "prefix")
    with pytest.raises(ConfigError, match="different labels"):
        pefttools.compose([one, other], [1, 1], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"\(prefix\) can't be added up: it adds virtual tokens"):
        pefttools.compose([prefix, prefix], [1, 1], tmp_path / "out")
    with pytest.raises(ConfigError, match="one weight for each"):
        pefttools.compose([one, one], [1], tmp_path / "out")
    for weight in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="weights must be numbers"):
            pefttools.compose([one, one], [weight, 1], tmp_path / "out")
    with pytest.raises(ConfigError, match="sum to zero"):
        pefttools.compose([one, one], [1, -1], tmp_path / "out")


def test_what_stands_in_the_way_is_not_lost(tiny_bert: str, tmp_path: Path) -> None:
    artifact = _lora(tiny_bert, 0, tmp_path / "one")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "precious.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for target in (tmp_path / "notes", tmp_path / "file"):
        for write in (
            lambda to: pefttools.export(artifact, to),
            lambda to: pefttools.compose([artifact, artifact], [1, 1], to),
            lambda to: pefttools.merge(artifact, to),
            lambda to: pefttools.save(pefttools.load(artifact), to),
        ):
            with pytest.raises(ConfigError, match="it would be lost"):
                write(target)
    assert (tmp_path / "notes" / "precious.txt").read_text() == (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["export", "compose", "merge"])
def test_what_is_written_already_is_replaced_if_asked_for(name: str, tiny_bert: str, tmp_path: Path) -> None:
    artifact = _lora(tiny_bert, 0, tmp_path / "one")
    write: Any = {
        "export": pefttools.export,
        "merge": pefttools.merge,
        "compose": lambda one, to, **options: pefttools.compose([one, one], [1, 1], to, **options),
    }[name]
    write(artifact, tmp_path / "out")
    (tmp_path / "out" / "precious.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"out exists already"):
        write(artifact, tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").is_file()
    write(artifact, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "precious.txt").exists()


def test_a_merge_does_not_take_the_place_of_its_base(tiny_bert: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    artifact = _lora(str(base), 0, tmp_path / "one")
    with pytest.raises(ConfigError, match="is the base model itself"):
        pefttools.merge(artifact, base, overwrite=True)
    assert sorted(path.name for path in base.iterdir()) == sorted(path.name for path in Path(tiny_bert).iterdir())


def test_a_head_alone_is_no_lora(tiny_bert: str, tmp_path: Path) -> None:
    artifact = make(tiny_bert, "mean", "head", 0, tmp_path / "artifact")
    with pytest.raises(ConfigError, match="there is no LoRA to export"):
        pefttools.export(artifact, tmp_path / "plain")


def test_norms_by_site(tiny_bert: str, tmp_path: Path) -> None:
    artifact = _lora(tiny_bert, 0, tmp_path / "one")
    found = site_norms(artifact)
    assert len(found) == 12
    state = pefttools.load(artifact).transformer.state_dict()
    name = "encoder.layer.0.attention.self.query"
    a = state[f"base_model.model.{name}.lora_A.default.weight"]
    b = state[f"base_model.model.{name}.lora_B.default.weight"]
    assert found[name]["low_rank"] == pytest.approx(float(torch.linalg.matrix_norm(4 * b @ a)), rel=1e-4)
