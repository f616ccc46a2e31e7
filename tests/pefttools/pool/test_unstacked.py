"""Dense changes and replaced parameters, which no built-in method has at the base's own modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import pefttools
from pefttools.adapters.lora import Lora
from pefttools.deltas import AdapterDeltas, Dense, LowRank, SiteDelta
from pefttools.methods import methods

from .makers import TEXTS, Make, alone, assert_close

if TYPE_CHECKING:
    from torch import nn

PLUGIN = Path(__file__).parents[3] / "examples" / "plugin"


class DenseLora(Lora):
    """LoRA that says of its state a dense change."""

    name = "dense-lora"

    def state_deltas(self, state: dict[str, torch.Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        found = super().state_deltas(state, options, model)
        sites = {}
        for name, delta in found.sites.items():
            update = delta.get(LowRank)
            assert update is not None
            sites[name] = SiteDelta(Dense(update.dense()))
        return replace(found, sites=sites)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The example's method, and `DenseLora`."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    from pefttools_norm import NormTuning

    names = []
    for plugin in (NormTuning, DenseLora):
        if plugin.name not in methods:
            methods.register(plugin.name)(plugin)
            names.append(plugin.name)
    yield ["norm", "dense-lora"]
    for name in names:
        methods.unregister(name)
    sys.modules.pop("pefttools_norm", None)


def _trained(base: str, method: str, seed: int, folder: Path) -> Path:
    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(base, method, task=task, labels=["a", "b"], precision="float32", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    pefttools.save(model, folder)
    return folder


def test_rows_of_unstacked_kinds(plugins: list[str], tiny_bert: str, artifact: Make, tmp_path: Path) -> None:
    folders = {
        f"{method}-{seed}": _trained(tiny_bert, method, seed, tmp_path / f"{method}-{seed}")
        for method in plugins
        for seed in range(2)
    }
    folders["lora"] = artifact(tiny_bert, "mean", "lora", 0)
    pool = pefttools.AdapterPool(tiny_bert)
    for name, folder in folders.items():
        pool.load(name, folder)
    names = [*folders, None, *folders]
    texts = [TEXTS[index % 4] for index in range(len(names))]
    found = pool(texts, names)
    for own, text, answer in zip(names, texts, found, strict=True):
        if own is not None:
            assert answer.logits is not None
            assert_close(answer.logits, alone(pefttools.load(folders[own]), text))
    before = pool.bytes()
    pool.unload("dense-lora-0")
    assert pool.bytes() < before
    (plain,) = pefttools.AdapterPool(tiny_bert)(["a text"], [None])
    (again,) = pool(["a text"], [None])
    assert plain.states is not None
    assert again.states is not None
    assert torch.equal(plain.states, again.states)


def test_a_compiled_pool_runs_them_uncompiled(plugins: list[str], tiny_bert: str, tmp_path: Path) -> None:
    folder = _trained(tiny_bert, "norm", 0, tmp_path / "norm")
    pool = pefttools.AdapterPool(tiny_bert, compile=True)
    pool.load("norm", folder)
    (answer,) = pool([TEXTS[1]], ["norm"])
    assert answer.logits is not None
    assert_close(answer.logits, alone(pefttools.load(folder), TEXTS[1]))
