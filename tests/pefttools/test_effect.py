"""An adapter that changes nothing is said: when it is stored, looked at, served and imported."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.artifact.effect import has_effect
from pefttools.artifact.manifest import read_manifest
from pefttools.methods import methods
from pefttools.store import Store

from .importers.foreign import KINDS, LABELS, make
from .pool.makers import TASKS, VARIED
from .pool.makers import make as make_trained

KNOWN = [name for name in methods if methods.get(name).neutral]
WEIGHTS = "adapter_model.safetensors"


def test_methods_that_know_what_does_nothing() -> None:
    assert {"lora", "ia3", "bitfit", "bottleneck"} <= set(KNOWN)


@pytest.mark.parametrize("head", ["mean", "model"])
@pytest.mark.parametrize("method", KNOWN)
def test_untrained_adapters_have_no_effect_and_trained_ones_do(
    method: str, head: str, tiny_bert: str, tmp_path: Path
) -> None:
    pefttools.save(pefttools.wrap(tiny_bert, method, task=TASKS[head], labels=LABELS), tmp_path / "untrained")
    assert not has_effect(tmp_path / "untrained", read_manifest(tmp_path / "untrained"))
    for number in range(len(VARIED[method])) if head == "mean" else [0]:
        trained = make_trained(tiny_bert, head, method, number, tmp_path / str(number))
        assert has_effect(trained, read_manifest(trained)), VARIED[method][number]


def test_it_is_said_wherever_the_adapter_passes(tiny_bert: str, tmp_path: Path) -> None:
    artifact = tmp_path / "untrained"
    pefttools.save(pefttools.wrap(tiny_bert, "lora", task=TASKS["mean"], labels=LABELS), artifact)
    pool = pefttools.AdapterPool(tiny_bert)
    for pass_by in (
        lambda: pefttools.inspect(artifact),
        lambda: Store(tmp_path / "store").add(artifact, "acme"),
        lambda: pool.load("acme", artifact),
    ):
        with pytest.warns(UserWarning, match="every change that this 'lora' adapter makes to its base is zero") as said:
            pass_by()
        assert len(said) == 1, [str(one.message) for one in said]
        assert str(artifact) in str(said[0].message)


def test_an_imported_adapter_without_effect_is_said(tiny_bert: str, tmp_path: Path) -> None:
    folder = make(KINDS["lora"], tiny_bert, tmp_path / "peft")
    state = {n: torch.zeros_like(t) if ".lora_B." in n else t for n, t in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS)
    with pytest.warns(UserWarning, match="is zero"):
        pefttools.import_adapter(folder, tiny_bert, tmp_path / "artifact", labels=LABELS)


def test_biases_and_magnitudes_are_effects_too(tiny_bert: str, tmp_path: Path) -> None:
    """Where B alone is zero, nothing is claimed of what else was trained."""
    for kind in ("all biases", "dora"):
        folder = make(KINDS[kind], tiny_bert, tmp_path / kind)
        state = {n: torch.zeros_like(t) if ".lora_B." in n else t for n, t in load_file(folder / WEIGHTS).items()}
        save_file(state, folder / WEIGHTS)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*is zero")
            pefttools.import_adapter(folder, tiny_bert, tmp_path / f"{kind}-artifact", labels=LABELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_number_format(dtype: torch.dtype, tiny_bert: str, tmp_path: Path) -> None:
    artifact = tmp_path / "ia3"
    pefttools.save(pefttools.wrap(tiny_bert, "ia3", task=TASKS["mean"], labels=LABELS), artifact)
    manifest = read_manifest(artifact)
    state = {name: tensor.to(dtype) for name, tensor in load_file(artifact / WEIGHTS).items()}
    save_file(state, artifact / WEIGHTS)
    assert not has_effect(artifact, manifest)
    next(iter(state.values())).view(-1)[-1] = 1.5
    save_file(state, artifact / WEIGHTS)
    assert has_effect(artifact, manifest)


def test_nothing_is_claimed_of_damaged_files(tiny_bert: str, tmp_path: Path) -> None:
    artifact = tmp_path / "a"
    pefttools.save(pefttools.wrap(tiny_bert, "lora", task=TASKS["mean"], labels=LABELS), artifact)
    copy = Path(shutil.copytree(artifact, tmp_path / "b"))
    (copy / WEIGHTS).write_bytes(b"short")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pefttools.inspect(copy).method.name == "lora"
