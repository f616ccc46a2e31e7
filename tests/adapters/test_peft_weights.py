"""What methods of PEFT that change weights have in common: sizes, options, and how their changes are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import pefttools
from pefttools.adapters.low_rank.lily import Lily
from pefttools.adapters.peft_weights import PeftWeights
from pefttools.adapters.weight_reader import read_changes
from pefttools.deltas import Dense
from pefttools.deltas.merge import bias_change, weight_change
from pefttools.errors import ArtifactError, ConfigError
from pefttools.methods import methods
from pefttools.testing.rows import encoded_rows
from pefttools.testing.steps import train_a_little
from pefttools.tuned import TunedModel

from ..methods import OTHERS, choice_of

TASK = {"name": "sequence-classification", "head": "mean"}


def _wrap(base: str, method: dict[str, Any], **options: Any) -> TunedModel:
    return pefttools.wrap(base, method, task=TASK, labels=["a", "b"], precision="float32", **options)


@pytest.mark.parametrize("name", ["c3a", "road", "vblora", "oft", "boft"])
def test_a_size_divides_those_of_all_layers(name: str, tiny_bert: str) -> None:
    plugin = methods.get(name)
    option = plugin.divides  # type: ignore[attr-defined]
    assert _wrap(tiny_bert, {"name": name}).count().trainable > 0
    with pytest.raises(ConfigError, match=rf"{name}\.{option} is 24, which does not divide the sizes of .*, 64"):
        _wrap(tiny_bert, {"name": name, option: 24})


def test_further_options_of_peft_are_passed_on(tiny_bert: str) -> None:
    plain = _wrap(tiny_bert, {"name": "vera", "r": 4})
    other = _wrap(tiny_bert, {"name": "vera", "r": 4, "peft": {"d_initial": 0.5}})
    name = next(name for name, _ in plain.named_parameters() if "vera_lambda_d" in name)
    assert float(plain.get_parameter(name).detach().mean()) == pytest.approx(0.1)
    assert float(other.get_parameter(name).detach().mean()) == 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"d_inital": 0.5}, "PEFT's VeraConfig has no option 'd_inital'"),
        ({"vera_dropout": 0.5}, "vera_dropout is set by pefttools"),
        ({"target_modules": ["query"]}, "target_modules is set by pefttools"),
        ({"bias": "all"}, "PEFT would train the base's own biases"),
    ],
)
def test_options_that_peft_does_not_have_are_refused(options: dict[str, Any], said: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _wrap(tiny_bert, {"name": "vera", "peft": options})


LINEAR = [
    name
    for name in OTHERS
    if issubclass(methods.get(name), PeftWeights) and methods.get(name).capabilities.deltas
    and name not in ("ln_tuning", "beft", "trainable_tokens")
]  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_changes_are_those_of_the_merged_weights(name: str, tiny_bert: str, tmp_path: Path) -> None:
    """PEFT's own merging is another way to the same weights; declared ranks hold, and small ones are stored so."""
    model = _wrap(tiny_bert, choice_of(name))
    train_a_little(model, encoded_rows(model, None))
    pefttools.save(model, tmp_path / "a")
    base: Any = _wrap(tiny_bert, {"name": "untuned"}).transformer
    spec = model.spec
    found = spec.method.deltas(tmp_path / "a", base, spec.config, spec.target)
    merged = spec.method.merge(model.transformer)
    kinds: set[str] = set()
    for site, delta in found.sites.items():
        layer, plain = merged.get_submodule(site), base.get_submodule(site)
        changed = plain.weight + weight_change(delta, plain.weight)
        torch.testing.assert_close(changed, layer.weight, atol=1e-5 * max(1.0, float(layer.weight.abs().max())), rtol=0)
        torch.testing.assert_close(plain.bias + bias_change(delta, plain.bias), layer.bias, atol=1e-5, rtol=0)
        kinds |= set(delta.kinds())
    assert kinds == KINDS.get(name, {"dense"})


#: kinds that are smaller than the change, on layers of 64 x 64 and 64 x 128; of some methods on some layers alone
KINDS = {
    **{
        name: {"low_rank"}
        for name in (
            "adalora",
            "bdlora",
            "deft",
            "delora",
            "hra",
            "kasa",
            "monteclora",
            "tinylora",
            "unilora",
            "vblora",
            "velora",
        )
    },
    **{name: {"low_rank", "dense"} for name in ("peanut", "psoft")},
    **{name: {"sparse"} for name in ("shira", "supertuning")},
    **{name: {"shared_low_rank"} for name in ("vera", "pvera")},
    "randlora": {"shared_bases"},
    "adamss": {"low_rank", "bias"},
    "boft": {"rotation", "weight_scale"},
    "c3a": {"circulant"},
    "fourierft": {"spectrum"},
    "glora": {"dense", "bias"},
    "lokr": {"kronecker"},
    "oft": {"rotation"},
    "road": {"pair_rotation"},
    "waveft": {"wavelets", "dense"},
}


@pytest.mark.parametrize("family", ["db1", "db3", "sym4", "coif2"])
def test_few_wavelet_coefficients_are_kept_as_they_are(family: str, tiny_bert: str, tmp_path: Path) -> None:
    """Whatever the wavelet, whose filters reach beyond the weight."""
    model = _wrap(tiny_bert, {"name": "waveft", "n": 100, "family": family})
    train_a_little(model, encoded_rows(model, None))
    pefttools.save(model, tmp_path / "a")
    base: Any = _wrap(tiny_bert, {"name": "untuned"}).transformer
    spec = model.spec
    found = spec.method.deltas(tmp_path / "a", base, spec.config, spec.target)
    assert {kind for delta in found.sites.values() for kind in delta.kinds()} == {"wavelets"}
    layers = dict(model.transformer.named_modules())
    for site, delta in found.sites.items():
        layer: Any = layers[f"base_model.model.{site}"]
        plain = base.get_submodule(site)
        change = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(weight_change(delta, plain.weight), change, atol=1e-5, rtol=1e-5)
        assert float(change.abs().max()) > 1e-3


def test_what_is_no_change_of_weights_is_refused_by_name(tiny_bert: str, tmp_path: Path) -> None:
    """Lily's mixture depends on its input: the identity alone would not show it."""
    from pefttools.adapters.peft_bridge import CONFIG, WEIGHTS
    from pefttools.deltas.weights import read_state

    model = _wrap(tiny_bert, {"name": "lily"})
    train_a_little(model, encoded_rows(model, None))
    pefttools.save(model, tmp_path / "a")
    import json

    options = json.loads((tmp_path / "a" / CONFIG).read_text())
    state = {name.removeprefix("base_model.model."): t for name, t in read_state(tmp_path / "a" / WEIGHTS).items()}
    base: Any = _wrap(tiny_bert, {"name": "untuned"}).transformer
    with pytest.raises(ConfigError, match=r"'lily' does more at encoder\.layer\.0\..* than change a weight"):
        read_changes(Lily(), state, options, base)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_tensors_that_do_not_fit_are_refused(change: str, tiny_bert: str) -> None:
    """Without a layer's tensors PEFT would leave it as it began, without a word."""
    model = _wrap(tiny_bert, {"name": "hra"})
    base: Any = _wrap(tiny_bert, {"name": "untuned"}).transformer
    state = {
        n.removeprefix("base_model.model."): t for n, t in peft.get_peft_model_state_dict(model.transformer).items()
    }
    options = model.transformer.peft_config["default"].to_dict()  # type: ignore[union-attr, index]
    assert len(read_changes(model.spec.method, state, options, base).sites) == 12  # type: ignore[arg-type]
    name = next(iter(state))
    if change == "missing":
        del state[name]
    else:
        state[name.replace(".layer.0.", ".layer.7.")] = state[name]
    with pytest.raises(ArtifactError, match=r"1 tensors are missing or unknown, e\.g\. .*hra_u"):
        read_changes(model.spec.method, state, options, base)  # type: ignore[arg-type]


def test_reading_changes_leaves_the_base_as_it_is(tiny_bert: str, tmp_path: Path) -> None:
    model = _wrap(tiny_bert, {"name": "hira"})
    train_a_little(model, encoded_rows(model, None))
    pefttools.save(model, tmp_path / "a")
    base: Any = _wrap(tiny_bert, {"name": "untuned"}).transformer.double()
    before = {name: p.clone() for name, p in base.named_parameters()}
    modules = {name: type(module) for name, module in base.named_modules()}
    spec = model.spec
    found = spec.method.deltas(tmp_path / "a", base, spec.config, spec.target)
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float64 for name, p in base.named_parameters())
    assert {name: type(module) for name, module in base.named_modules()} == modules
    change = next(iter(found.sites.values())).get(Dense)
    assert change is not None and change.change.dtype == torch.float64


def test_the_head_of_a_model_is_refused_where_peft_cannot_train_it(tiny_bert: str) -> None:
    task = {"name": "sequence-classification", "head": "model"}
    with pytest.raises(ConfigError, match="'trainable_tokens' can't train the model's own head"):
        pefttools.wrap(tiny_bert, choice_of("trainable_tokens"), task=task, labels=["a", "b"])


def test_norms_alone_are_norms(tiny_bert: str) -> None:
    model = _wrap(tiny_bert, {"name": "ln_tuning"})
    norms = sum(p.numel() for m in model.transformer.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters())
    assert model.count().trainable - model.count().head == norms // 2  # PEFT keeps the base's own beside
    with pytest.raises(pefttools.PeftToolsError, match="none of the chosen modules is a normalization layer"):
        _wrap(tiny_bert, {"name": "ln_tuning", "targets": ["query"]})
