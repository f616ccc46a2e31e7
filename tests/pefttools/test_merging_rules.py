"""Adapters made one by other rules than a sum: what is stored is what PEFT's functions make of the dense changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import merge_utils

import pefttools
from pefttools.errors import ConfigError
from pefttools.methods import Target

from .pool.makers import make

WEIGHTS = [0.7, 0.5]


@pytest.fixture(scope="module")
def adapters(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A LoRA and an OFT, with the same labels."""
    from pefttools.artifact.manifest import read_manifest, write_manifest

    folder = tmp_path_factory.mktemp("adapters")
    made = [make(tiny_bert, "mean", method, 0, folder / method) for method in ("lora", "oft")]
    labels = read_manifest(made[0]).task.labels
    manifest = read_manifest(made[1])
    write_manifest(made[1], manifest.model_copy(update={"task": manifest.task.model_copy(update={"labels": labels})}))
    return made


def _changes(artifact: Path, base: str) -> dict[str, torch.Tensor]:
    from pefttools.deltas.merge import weight_change

    model = pefttools.load(artifact)
    plain: Any = pefttools.wrap(
        base, "untuned", labels=["a", "b"], task={"name": "sequence-classification", "head": "mean"}
    )
    found = model.spec.method.deltas(artifact, plain.transformer, model.spec.config, Target("", "FEATURE_EXTRACTION"))
    weights = {name: plain.transformer.get_submodule(name).weight.detach() for name in found.sites}
    return {name: weight_change(delta, weights[name]) for name, delta in found.sites.items()}


@pytest.mark.parametrize(
    "rule",
    ["ties", "dare-ties", *(pytest.param(one, marks=pytest.mark.slow) for one in ("dare-linear", "magnitude-prune"))],
)
def test_what_is_stored_is_what_the_rule_makes(rule: str, adapters: list[Path], tiny_bert: str, tmp_path: Path) -> None:
    output = tmp_path / "joint"
    lost = pefttools.compose(adapters, WEIGHTS, output, rule=rule, density=0.3, seed=4, rank=64)
    assert lost < 1e-5  # 64 is the full rank of these layers
    each = [_changes(one, tiny_bert) for one in adapters]
    stored = _changes(output, tiny_bert)
    assert stored.keys() == each[0].keys()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for name in each[0]:
            merge = getattr(merge_utils, rule.replace("-", "_"))
            wanted = merge([changes[name] for changes in each], torch.tensor(WEIGHTS), 0.3)
            torch.testing.assert_close(stored[name], wanted, atol=2e-5, rtol=1e-3)
    training = pefttools.inspect(output).training
    assert (training["rule"], training["density"], training["seed"]) == (rule, 0.3, 4)


def test_a_density_of_one_by_dare_is_the_sum(adapters: list[Path], tiny_bert: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no pruning will be performed"):
        pefttools.compose(adapters, WEIGHTS, tmp_path / "dare", rule="dare-linear", density=1.0, rank=64)
    pefttools.compose(adapters, WEIGHTS, tmp_path / "sum", rank=64)
    one, other = (_changes(tmp_path / name, tiny_bert) for name in ("dare", "sum"))
    for name, change in one.items():
        torch.testing.assert_close(change, other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "tie", "density": 0.5, "rank": 4}, "unknown rule 'tie'"),
        ({"rule": "ties", "rank": 4}, "'ties' needs a density"),
        ({"rule": "ties", "density": 1.5, "rank": 4}, "'ties' needs a density"),
        ({"rule": "ties", "density": 0.5}, "a rank is needed"),
        ({"density": 0.5, "rank": 4}, "not for the sum"),
    ],
)
def test_rules_that_cannot_be(options: dict[str, Any], said: str, adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(pefttools.PeftToolsError, match=said) as caught:
        pefttools.compose(adapters, WEIGHTS, tmp_path / "joint", **options)
    assert isinstance(caught.value, ConfigError) and not (tmp_path / "joint").exists()
