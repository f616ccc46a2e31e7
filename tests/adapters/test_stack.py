"""Several methods on one base: each does what it does alone, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.adapters.stack.parts import put_on
from pefttools.errors import ConfigError
from pefttools.eval.spec import BenchSpec, plan
from pefttools.recipe import method_title
from pefttools.testing import check_method
from pefttools.training.optimizer import parameter_groups
from pefttools.training.rates import Rates

LABELS = ["a", "b"]
ROWS = [{"text": f"text number {n} of kind {LABELS[n % 2]}", "label": LABELS[n % 2]} for n in range(40)]
SMALL = {"name": "lora", "r": 4}
MEAN = {"name": "sequence-classification", "head": "mean"}
OUTPUTS, QUERIES = {"targets": ["*attention.output.dense"]}, {"targets": ["*query"]}
SAME_LIBRARY = ("adalora", "adamss", "bdlora", "frod", "lora", "oft")
MIX_AND_MATCH = [{"name": "bottleneck", "placement": "parallel", "size": 8}, {"name": "prefix", "length": 5}]
EVERY_KIND = ["prompt", "reft", "ln_tuning", {"name": "lora", "targets": ["*query", "*q_proj"]}]
APART = [
    {"name": "lora", "targets": ["*.attention.output.dense", "*o_proj"]},
    {"name": "adalora", "targets": ["*query", "*q_proj"]},
    {"name": "oft", "targets": ["*value", "*v_proj"]},
]


def _fitting(methods: list[Any], family: str) -> list[Any]:
    """With the patterns that match the family's names."""
    names = ("*.attention.output.dense", "*query", "*value") if family == "bert" else ("*o_proj", "*q_proj", "*v_proj")
    return [
        {**one, "targets": [name for name in one["targets"] if name in names]}
        if isinstance(one, dict) and "targets" in one else one
        for one in methods
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "family", "variant"),
    [
        (["ln_tuning", SMALL], "bert", "float32"),
        (MIX_AND_MATCH, "llama", "float32"),
        (EVERY_KIND, "bert", "float32"),
        (APART, "llama", "float32"),
        *(
            pytest.param(methods, family, variant, marks=pytest.mark.slow)
            for methods in (["ln_tuning", SMALL], MIX_AND_MATCH, EVERY_KIND, APART)
            for family in ("bert", "llama")
            for variant in ("float32", "int8", "nf4")
        ),
    ],
)
def test_the_contract(
    methods: list[Any], family: str, variant: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    task = {"name": "causal-lm"} if family == "llama" else {"name": "sequence-classification", "head": "mean"}
    base = request.getfixturevalue(f"tiny_{family}")
    model = check_method(_fitting(methods, family), base=base, folder=tmp_path, task=task, variant=variant)
    assert model is not None
    assert (tmp_path / "merged").is_dir() == (methods[0] == "ln_tuning" or methods is APART)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["model", "mean"])
def test_the_contract_by_the_models_own_head(head: str, tiny_bert: str, tmp_path: Path) -> None:
    task = {"name": "sequence-classification", "head": head}
    assert check_method(["ln_tuning", SMALL], base=tiny_bert, folder=tmp_path, task=task) is not None


@pytest.mark.parametrize(
    "first",
    [
        "ln_tuning",
        {"name": "bitfit", "targets": ["*LayerNorm"]},
        {"name": "lora", "targets": ["*output.dense", "*transform.dense"]},
    ],
)
def test_the_models_own_head_is_trained_by_one_of_them(first: Any, tiny_bert: str, tmp_path: Path) -> None:
    # BERT's own head for words has a linear layer and a norm, which the first would adapt as well.
    methods = [first, {"name": "lora", "r": 4, "targets": ["*query"]}]
    assert check_method(methods, base=tiny_bert, folder=tmp_path, task={"name": "masked-lm"}) is not None


def test_each_part_is_what_its_method_alone_would_be(tiny_bert: str, tmp_path: Path) -> None:
    """What is stored of a part is an adapter of its method: put on a fresh base, it changes what it changed."""
    from pefttools.adapters.lora import Lora
    from pefttools.adapters.stack.parts import files_of
    from pefttools.deltas import LowRank, Replace

    model = pefttools.wrap(tiny_bert, ["ln_tuning", SMALL], task=MEAN, labels=LABELS, precision="float32")
    with torch.no_grad():
        for part in put_on(model.transformer):
            for parameter in part.own.values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    spec = model.spec
    spec.method.save(model.transformer, tmp_path, "base")
    base: Any = pefttools.wrap(tiny_bert, "untuned", task=MEAN, labels=LABELS).transformer
    whole = spec.method.deltas(tmp_path, base, spec.config, spec.target)
    lora = put_on(model.transformer)[1]
    with files_of(2, tmp_path) as files:
        alone = Lora().deltas(files, base, lora.config, spec.target)
    assert {name for name, site in whole.sites.items() if site.get(LowRank)} == alone.sites.keys()
    for name, site in alone.sites.items():
        one, other = whole.sites[name].get(LowRank), site.get(LowRank)
        assert one is not None and other is not None
        torch.testing.assert_close((one.a, one.b), (other.a, other.b))
    norms = [name for name, site in whole.sites.items() if site.get(Replace)]
    assert len(norms) == 5 and all(name.endswith("LayerNorm") for name in norms)


def test_a_recipe_names_them_in_a_list(tiny_bert: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe = {
        "base": tiny_bert, "method": ["ln_tuning", SMALL], "data": {"train": str(path), "validation": 0.2},
        "training": {"epochs": 2, "batch_size": 8, "precision": "float32"}, "output": str(tmp_path / "a"),
    }  # fmt: skip
    trained = pefttools.train(recipe)
    assert trained is not None
    manifest = pefttools.inspect(tmp_path / "a")
    assert [one["name"] for one in manifest.method.config["methods"]] == ["ln_tuning", "lora"]
    assert pefttools.predict(tmp_path / "a", ROWS[:4]) == pefttools.predict(trained.model, ROWS[:4])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lora", "lora"),
        *(pytest.param(one, one, marks=pytest.mark.slow) for one in SAME_LIBRARY if one != "lora"),
        *(pytest.param(one, "lora", marks=pytest.mark.slow) for one in SAME_LIBRARY if one != "lora"),
    ],
)
def test_two_of_one_library_are_both_trained(first: str, second: str, tiny_bert: str, tmp_path: Path) -> None:
    """PEFT activates the adapter that was added last, in the layers of the first one too."""
    methods = [{"name": first, **OUTPUTS}, {"name": second, **QUERIES}]
    assert check_method(methods, base=tiny_bert, folder=tmp_path, task=MEAN) is not None


def test_a_method_finds_its_layers_beside_those_that_are_adapted_already(tiny_bert: str, tmp_path: Path) -> None:
    """The bottleneck knows a model's layers by their names; PEFT has put its own layers in the place of some."""
    methods: list[dict[str, Any]] = [
        {"name": "lora", **QUERIES},
        {"name": "bottleneck", "size": 8, "placement": "houlsby"},
    ]
    assert check_method(methods, base=tiny_bert, folder=tmp_path, task=MEAN) is not None


def test_a_penalty_is_on_the_methods_own_matrices(tiny_bert: str) -> None:
    methods = [{"name": "adalora", **OUTPUTS}, {"name": "lora", **QUERIES}]
    model = pefttools.wrap(tiny_bert, methods, task=MEAN, labels=LABELS)
    method, config = model.spec.method, model.spec.config
    before = method.penalty(model.transformer, config)
    with torch.no_grad():
        for parameter in put_on(model.transformer)[1].own.values():
            parameter.mul_(3.0)
    assert before is not None
    torch.testing.assert_close(method.penalty(model.transformer, config), before)


def test_each_keeps_its_learning_rate(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, ["ln_tuning", {**SMALL, "b_rate": 4.0}], task=MEAN, labels=LABELS)
    rate = model.spec.method.default_learning_rate(1000)
    assert rate == 5e-3  # of the first one
    rates = {id(p): group["lr"] for group in parameter_groups(model, Rates(rate, 1.0), 0.0) for p in group["params"]}
    norms, lora = put_on(model.transformer)
    assert {rates[id(p)] for p in norms.own.values()} == {5e-3}
    found = {name.split(".lora_")[1][0]: rates[id(p)] for name, p in lora.own.items()}
    assert found == {"A": pytest.approx(2e-3), "B": pytest.approx(8e-3)}


def test_two_of_one_method_keep_their_own_weight_decay(tiny_bert: str) -> None:
    """What is taken off the base must not decay; a plain LoRA beside it does."""
    methods = [{**SMALL, "start": "pissa", "targets": ["*query"]}, {**SMALL, "targets": ["*value"]}]
    model = pefttools.wrap(tiny_bert, methods, task=MEAN, labels=LABELS)
    decays = {id(p): g["weight_decay"] for g in parameter_groups(model, Rates(1e-3, 1e-3), 0.1) for p in g["params"]}
    first, second = put_on(model.transformer)
    assert {decays[id(p)] for p in first.own.values()} == {0.0}
    assert {decays[id(p)] for p in second.own.values()} == {0.1}


@pytest.mark.parametrize(
    "other",
    [{"name": "trainable_tokens", "tokens": [5]}, {"name": "osf", "targets": ["*.attention.output.dense"]}],
)
def test_each_keeps_its_weight_decay(other: dict[str, Any], tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, [other, {**SMALL, "targets": ["*query"]}], task=MEAN, labels=LABELS)
    decays = {id(p): g["weight_decay"] for g in parameter_groups(model, Rates(1e-3, 1e-3), 0.1) for p in g["params"]}
    first, lora = put_on(model.transformer)
    assert {decays[id(p)] for p in first.own.values()} == {0.0}
    assert {decays[id(p)] for p in lora.own.values()} == {0.1}


@pytest.mark.parametrize("variant", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["lora", "ia3"], "the methods 'lora' and 'ia3' both act on encoder.layer.0.attention.self.key"),
        (["lora", "lora"], "the methods 'lora' and 'lora' both act on encoder.layer.0.attention.self.query"),
        (
            ["bottleneck", "lora"],
            "the methods 'bottleneck' and 'lora' both act on encoder.layer.0.*output.dense",
        ),
        (["prefix", "prompt"], "two methods that put virtual tokens before a text can't be combined"),
        (["lora", "head"], "the method 'head' can't be one of several"),
        (["lora", {"name": "loro"}], "unknown method 'loro'"),
        (["lora", {"name": "ln_tuning", "rank": 4}], "rank: no such field"),
        (["lora"], "methods"),
        ([{"name": "shira", **OUTPUTS}, {"name": "shira", **QUERIES}], "'shira' can't be combined with itself"),
    ],
)
def test_what_does_not_go_together(methods: list[Any], said: str, variant: str, tiny_bert: str) -> None:
    with pytest.raises(pefttools.PeftToolsError, match=said):
        pefttools.wrap(tiny_bert, methods, task=MEAN, labels=LABELS, variant=variant)


def test_options_of_several_stand_with_each(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match="r: with several methods, each takes its options in its own mapping"):
        pefttools.wrap(tiny_bert, ["ln_tuning", "lora"], labels=LABELS, r=4)


def test_a_comparison_names_them_so_too(tmp_path: Path) -> None:
    spec = BenchSpec.model_validate(
        {"base": "base", "methods": ["lora", ["ln_tuning", SMALL], {"name": "lora", "label": "small", "r": 4}],
         "data": {"train": "rows.jsonl", "validation": 0.2, "test": "test.jsonl"}, "output": str(tmp_path)}
    )  # fmt: skip
    assert [run.label for run in plan(spec)] == ["lora", "ln_tuning + lora", "small"]
    assert method_title(["ln_tuning", SMALL]) == "ln_tuning + lora"
