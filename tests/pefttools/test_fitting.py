"""Artifacts whose bytes are what the manifest says, and that are wrong all the same: `load` and a pool refuse alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.artifact.manifest import list_files, read_manifest, write_manifest
from pefttools.bases import locate_base
from pefttools.errors import ArtifactError
from pefttools.recipe import stored_method, stored_task
from pefttools.store import Store
from pefttools.training.start import open_parent

_TASK = {"name": "sequence-classification", "head": "mean"}
_LORA = {"name": "lora", "r": 2, "targets": ["query", "value"]}
Tensors = dict[str, torch.Tensor]


def _save(base: str, method: Any, folder: Path, head: str = "mean") -> Path:
    model = pefttools.wrap(base, method, task=_TASK | {"head": head}, labels=["a", "b"], seed=1)
    for parameter in model.parameters():
        parameter.data += 0.01 * parameter.requires_grad
    pefttools.save(model, folder)
    return folder


def _sealed(folder: Path, **changes: Any) -> None:
    """As somebody would who can write manifests."""
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"files": list_files(folder), **changes}))


def _weights(change: Callable[[Tensors], Tensors], file: str = "adapter_model.safetensors") -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def _options(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _filled(value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        next(iter(tensors.values())).view(-1)[0] = value
        return tensors

    return change


def _first_gone(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[1:])


def _renamed(tensors: Tensors) -> Tensors:
    return {name.replace(".query.", ".key."): tensor for name, tensor in tensors.items()}


def _no_magnitudes(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "magnitude" not in name}


def _three_labels(tensors: Tensors) -> Tensors:
    return {name: torch.cat([tensor, tensor[:1]]) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("method", "edit", "said"), [
    (_LORA, _weights(_filled(float("nan"))), "not finite numbers"),
    (_LORA, _weights(_filled(float("-inf")), "head.safetensors"), r"head\.safetensors: .* not finite numbers"),
    ("ia3", _weights(_filled(float("inf"))), "not finite numbers"),
    (_LORA, _weights(_first_gone), "do not fit|does not fit"),
    (_LORA, _weights(_renamed), "do not fit|does not fit"),
    (_LORA, _options(target_modules=["key"]), "does not fit"),
    (_LORA, _options(r=4), "does not fit"),
    (_LORA, _options(alpha_pattern={"query": "16"}), "does not fit"),
    (_LORA | {"dora": True}, _weights(_no_magnitudes), "does not fit"),
    (_LORA, _weights(_three_labels, "head.safetensors"), "does not fit the task head"),
    (_LORA, _weights(_first_gone, "head.safetensors"), "does not fit the task head"),
    ({"name": "bottleneck", "size": 4}, _weights(_first_gone), "does not fit"),
    ("bitfit", _weights(_first_gone), "does not fit"),
    ({"name": "prefix", "length": 3}, _weights(_first_gone), "does not fit"),
])  # fmt: skip
def test_load_and_a_pool_refuse_alike(
    method: Any, edit: Callable[[Path], None], said: str, tiny_bert: str, tmp_path: Path
) -> None:
    folder = _save(tiny_bert, method, tmp_path / "adapter")
    edit(folder)
    _sealed(folder)
    pool = pefttools.AdapterPool(tiny_bert, device="cpu")
    for load in (lambda: pefttools.load(folder), lambda: pool.load("one", folder)):
        with pytest.raises(ArtifactError, match=said) as raised:
            load()
        assert str(folder) in str(raised.value)
    assert pool.known == []


@pytest.mark.parametrize("head", ["mean", "model"])
def test_a_label_too_many_is_refused_by_both(head: str, tiny_bert: str, tmp_path: Path) -> None:
    folder = _save(tiny_bert, _LORA, tmp_path / head, head)
    manifest = read_manifest(folder)
    _sealed(folder, task=manifest.task.model_copy(update={"labels": ["a", "b", "c"]}))
    pool = pefttools.AdapterPool(tiny_bert, device="cpu")
    for load in (lambda: pefttools.load(folder), lambda: pool.load("one", folder)):
        with pytest.raises(ArtifactError, match="does not fit"):
            load()


def test_a_store_takes_no_adapter_that_can_not_answer(tiny_bert: str, tmp_path: Path) -> None:
    folder = _save(tiny_bert, _LORA, tmp_path / "adapter")
    _weights(_filled(float("nan")))(folder)
    _sealed(folder)
    store = Store(tmp_path / "store")
    with pytest.raises(ArtifactError, match="not finite numbers"):
        store.add(folder, "acme")
    assert store.names() == []


@pytest.mark.parametrize("use", ["merge", "export", "from"])
def test_nobody_uses_weights_that_are_no_numbers(use: str, tiny_bert: str, tmp_path: Path) -> None:
    folder = _save(tiny_bert, _LORA, tmp_path / "adapter")
    _weights(_filled(float("nan")))(folder)
    _sealed(folder)
    with pytest.raises(ArtifactError, match="not finite numbers"):
        if use == "merge":
            pefttools.merge(folder, tmp_path / "out")
        elif use == "export":
            pefttools.export(folder, tmp_path / "out")
        else:
            manifest = read_manifest(folder)
            method, config = stored_method("lora", manifest.method.config, manifest.schema_version, "")
            open_parent(
                folder, locate_base(tiny_bert), method, config, stored_task(_TASK["name"], {"head": "mean"}, "")
            )
    assert not (tmp_path / "out").exists()


def test_what_fitted_once_is_not_built_again(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants of one recipe differ in their numbers and labels alone; another rank is another matter."""
    from pefttools.bases.skeleton import Skeleton

    built = []
    whole = Skeleton.transformer
    monkeypatch.setattr(Skeleton, "transformer", lambda *a, **k: (built.append(1), whole(*a, **k))[1])
    one = _save(tiny_bert, _LORA, tmp_path / "one")
    two = shutil.copytree(one, tmp_path / "two")
    _weights(_filled(0.5))(two)
    manifest = read_manifest(two)
    _sealed(two, task=manifest.task.model_copy(update={"labels": ["c", "d"]}))
    other = _save(tiny_bert, _LORA | {"r": 3}, tmp_path / "other")
    pool = pefttools.AdapterPool(tiny_bert, device="cpu")
    counts = []
    for name, folder in (("one", one), ("two", two), ("other", other)):
        pool.load(name, folder)
        counts.append(len(built))
    assert counts[0] == counts[1] < counts[2]
