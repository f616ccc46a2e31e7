"""Full fine-tuning leaves alone what a class never trains, and loads what an earlier version trained of it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import pefttools


def test_positions_that_are_waves_are_not_trained_and_those_of_older_artifacts_are_kept(
    tiny_whisper: str, tmp_path: Path
) -> None:
    task = {"name": "audio-classification", "head": "mean", "max_seconds": 1.0}
    model = pefttools.wrap(tiny_whisper, "full", task=task, labels=["a", "b"], precision="float32")
    spec, name = model.spec, "embed_positions.weight"
    assert not model.transformer.get_parameter(name).requires_grad
    spec.method.save(model.transformer, tmp_path, "base")
    older = load_file(tmp_path / "adapter_model.safetensors")
    assert name not in older
    older[name] = model.transformer.get_parameter(name).detach() + 1.0
    save_file(older, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    fresh = spec.task.build(spec.base, spec.variant, spec.labels).transformer
    loaded = spec.method.load(fresh, tmp_path, spec.config, spec.target)
    assert torch.equal(loaded.get_parameter(name), older[name])
