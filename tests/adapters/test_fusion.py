"""AdapterFusion: saved bottleneck adapters, combined by the published formula."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import pefttools
from pefttools.adapters.fusion.module import Fusion, fusions
from pefttools.artifact.manifest import read_manifest
from pefttools.errors import ArtifactError, BaseModelError, ConfigError
from pefttools.testing import check_method
from pefttools.testing.methods import trained_subject

LABELS = ["a", "b"]
ROWS = [{"text": f"text number {n} of kind {LABELS[n % 2]}", "label": LABELS[n % 2]} for n in range(6)]


def _saved(base: str, folder: Path, **options: Any) -> Path:
    """A bottleneck adapter that was trained for a few steps."""
    folder.mkdir()
    method = {"name": "bottleneck", "size": 4, **options}
    return trained_subject(method, base=base, folder=folder, labels=LABELS, rows=ROWS).artifact


@pytest.fixture
def pair(tiny_bert: str, tmp_path: Path) -> list[str]:
    """Two adapters that stand in the same places, and are unlike in all else."""
    second = {"size": 8, "activation": "relu", "scale": 2.0, "dropout": 0.5}
    return [str(_saved(tiny_bert, tmp_path / "first")), str(_saved(tiny_bert, tmp_path / "second", **second))]


def test_it_is_the_published_formula(tiny_bert: str, pair: list[str]) -> None:
    model = pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": pair}, labels=LABELS)
    name, fusion = next((name, one) for name, one in model.transformer.named_modules() if isinstance(one, Fusion))
    site = name.removesuffix(".fusion")
    each = []
    x = torch.randn(2, 5, fusion.query.in_features)
    for folder, activate, scale in zip(pair, (functional.gelu, functional.relu), (1.0, 2.0), strict=True):
        saved = dict(pefttools.load(Path(folder)).transformer.named_parameters())
        down, up = (
            [saved[f"{site}.bottleneck.{part}.{kind}"] for kind in ("weight", "bias")] for part in ("down", "up")
        )
        each.append(scale * functional.linear(activate(functional.linear(x, *down)), *up))
    with torch.no_grad():
        fusion.value.weight.add_(torch.randn_like(fusion.value.weight) * 0.1)  # type: ignore[union-attr]
    query = x @ fusion.query.weight.T + fusion.query.bias
    scores = torch.stack([(query * (one @ fusion.key.weight.T + fusion.key.bias)).sum(-1) for one in each], -1)
    share = torch.softmax(scores, -1)
    wanted = sum(share[..., n, None] * (each[n] @ fusion.value.weight.T) for n in range(2))  # type: ignore[union-attr]
    assert float(share.detach().std()) > 1e-4, "all alike: the formula is not tried"
    assert torch.allclose(fusion(x), wanted, atol=1e-6)


def test_the_penalty_pulls_the_values_to_the_identity(tiny_bert: str, pair: list[str]) -> None:
    model = pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": pair, "regularization": 0.5}, labels=LABELS)
    method, found = model.spec.method, list(fusions(model.modules()))
    with torch.no_grad():
        for fusion in found:
            fusion.value.weight.copy_(torch.eye(len(fusion.value.weight)) * 3)  # type: ignore[union-attr]
    size = found[0].query.out_features
    penalty = method.penalty(model.transformer, model.spec.config)
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(0.5 * len(found) * size * 4)
    without = pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": pair, "values": False}, labels=LABELS)
    assert method.penalty(without.transformer, without.spec.config) is None


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_the_contract_with_saved_adapters(placement: str, tiny_bert: str, tmp_path: Path) -> None:
    saved = [_saved(tiny_bert, tmp_path / name, placement=placement) for name in ("first", "second")]
    method = {"name": "fusion", "adapters": [str(one) for one in saved]}
    model = check_method(method, base=tiny_bert, folder=tmp_path / "fused", labels=LABELS, rows=ROWS)
    assert model is not None
    assert {name.rpartition(".fusion.")[2].split(".")[0] for name in _trained(model)} == {"query", "key", "value"}


def test_the_artifact_needs_no_other(tiny_bert: str, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    fused = trained_subject(
        {"name": "fusion", "adapters": pair}, base=tiny_bert, folder=tmp_path / "fused", labels=LABELS, rows=ROWS
    )
    said = read_manifest(fused.artifact).method.config
    assert str(tmp_path) not in str(said)
    assert [one["size"] for one in said["fused"]] == [4, 8]
    for folder in pair:
        shutil.rmtree(folder)
    loaded = pefttools.load(fused.artifact)
    assert torch.equal(loaded.run(fused.examples), fused.model.run(fused.examples))
    with pytest.raises(ArtifactError, match="does not exist or is not a folder"):
        pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": pair}, labels=LABELS)


def test_another_base_is_refused(tiny_bert: str, tiny_gpt2: str, pair: list[str]) -> None:
    with pytest.raises(BaseModelError, match="the artifact belongs to the base"):
        pefttools.wrap(tiny_gpt2, {"name": "fusion", "adapters": pair}, labels=LABELS)


def test_adapters_that_can_not_be_fused_are_refused(tiny_bert: str, pair: list[str], tmp_path: Path) -> None:
    other = _saved(tiny_bert, tmp_path / "other", placement="parallel")
    with pytest.raises(ConfigError, match="adapter 2 has the placement 'parallel', but the first one 'houlsby'"):
        pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": [pair[0], str(other)]}, labels=LABELS)
    (tmp_path / "lora").mkdir()
    lora = trained_subject("lora", base=tiny_bert, folder=tmp_path / "lora", labels=LABELS, rows=ROWS).artifact
    with pytest.raises(ConfigError, match="is an adapter of the method 'lora', which can't be fused"):
        pefttools.wrap(tiny_bert, {"name": "fusion", "adapters": [pair[0], str(lora)]}, labels=LABELS)
    for few in ({"adapters": pair[:1]}, {}):
        with pytest.raises(ConfigError, match=r"^method: adapters must name the folders of two or more saved bottlene"):
            pefttools.wrap(tiny_bert, {"name": "fusion", **few}, labels=LABELS)


def test_beside_another_method(tiny_bert: str, pair: list[str], tmp_path: Path) -> None:
    stack = {"name": "stack", "methods": [{"name": "fusion", "adapters": pair}, {"name": "ln_tuning"}]}
    assert check_method(stack, base=tiny_bert, folder=tmp_path / "stack", labels=LABELS, rows=ROWS) is not None


def test_two_of_our_own_methods_are_stacked(tiny_bert: str, tmp_path: Path) -> None:
    stack = {"name": "stack", "methods": ["reft", "bottleneck"]}
    assert check_method(stack, base=tiny_bert, folder=tmp_path / "stack", labels=LABELS, rows=ROWS) is not None


def _trained(model: pefttools.TunedModel) -> list[str]:
    return [name for name, p in model.transformer.named_parameters() if p.requires_grad and ".fusion." in name]
