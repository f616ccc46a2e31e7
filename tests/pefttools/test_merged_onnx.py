"""Merged models as ONNX graphs, run without torch: they give the adapter's labels, scores and embeddings."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import pefttools
from pefttools.artifact.onnx_model import logits_of_graph
from pefttools.errors import ConfigError
from tests.pefttools.test_merge import TEXTS, _artifact, _card_prints

CLASSIFICATION = {"name": "sequence-classification", "head": "mean"}


def _other_shapes(artifact: Path, merged: Path) -> None:
    """Batches of other shapes than the traced ones."""
    model = pefttools.load(artifact)
    generator = torch.Generator().manual_seed(0)
    for rows, tokens in ((1, 1), (7, 3), (2, 200)):
        ids = torch.randint(999, 2000, (rows, tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 1 + tokens // 2 :] = 0  # padding, on the right
        batch = {"input_ids": ids, "attention_mask": mask}
        torch.testing.assert_close(logits_of_graph(merged, batch), model.run_batch(batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "mean"),
        pytest.param("bert", "model", marks=pytest.mark.slow),
        pytest.param("bert", "cls", marks=pytest.mark.slow),
        pytest.param("llama", "last", marks=pytest.mark.slow),
        pytest.param("llama", "model", marks=pytest.mark.slow),
    ],
)
def test_labels_and_scores(head: str, family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    artifact = _artifact(request.getfixturevalue(f"tiny_{family}"), tmp_path, {**CLASSIFICATION, "head": head})
    wanted = pefttools.predict(artifact, TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pefttools.merge(artifact, tmp_path / "merged", format="onnx")
    found = _card_prints(tmp_path / "merged")
    assert [label for label, _ in found] == [one["prediction"] for one in wanted]
    assert [score for _, score in found] == pytest.approx([one["score"] for one in wanted], abs=1e-4)
    written = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"model.onnx", "config.json", "README.md", "tokenizer.json"} <= written
    assert not any(name.endswith(".safetensors") for name in written)
    if family == "bert":
        _other_shapes(artifact, tmp_path / "merged")


@pytest.mark.slow
def test_embeddings(tiny_bert: str, tmp_path: Path) -> None:
    artifact = _artifact(tiny_bert, tmp_path, {"name": "sentence-embedding", "head": "mean", "projection": True})
    pefttools.merge(artifact, tmp_path / "merged", format="onnx")
    wanted = np.array([one["prediction"] for one in pefttools.predict(artifact, TEXTS)])
    tokenizer = pefttools.load(artifact).tokenizer
    batch = dict(tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt"))
    found = logits_of_graph(tmp_path / "merged", batch).numpy()
    assert found / np.linalg.norm(found, axis=-1, keepdims=True) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_eight_bits_are_smaller_and_say_what_they_change(tiny_bert: str, tmp_path: Path) -> None:
    artifact = _artifact(tiny_bert, tmp_path, CLASSIFICATION)
    wanted = pefttools.predict(artifact, TEXTS)
    pefttools.merge(artifact, tmp_path / "whole", format="onnx")
    with pytest.warns(UserWarning, match=r"the logits differ by up to \d+\.\d% of the largest"):
        pefttools.merge(artifact, tmp_path / "small", format="onnx-int8")
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < 0.35 * sizes[0]
    found = _card_prints(tmp_path / "small")
    assert [score for _, score in found] == pytest.approx([one["score"] for one in wanted], abs=0.1)
    assert "weights in 8 bits" in (tmp_path / "small" / "README.md").read_text()


@pytest.mark.parametrize(("name", "family"), [("causal-lm", "llama"), ("masked-lm", "bert")])
def test_what_is_no_label_and_no_embedding_is_refused(
    name: str, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifact = _artifact(request.getfixturevalue(f"tiny_{family}"), tmp_path, {"name": name})
    with pytest.raises(ConfigError, match=f"no place for the head of the task '{name}'"):
        pefttools.merge(artifact, tmp_path / "merged", format="onnx")
    assert not (tmp_path / "merged").exists()
