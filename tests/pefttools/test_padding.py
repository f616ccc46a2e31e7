"""A classifier's answer for a row does not depend on the row's padding, whatever the method and the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from tests.families import make_family

TEXTS = ["a short text", "another text that is a good deal longer than the first one", "third"]


@pytest.mark.parametrize("method", [{"name": "lora", "r": 4}, {"name": "prompt", "length": 5}], ids=["lora", "prompt"])
@pytest.mark.parametrize(
    ("family", "head"),
    [(f, "model") for f in ("bert", "xlnet", "gpt2", "opt", "llama", "gemma3", "mixtral")] + [("bert", "mean")],
)
def test_a_row_alone_equals_the_row_padded(family: str, head: str, method: dict[str, Any], tmp_path: Path) -> None:
    base = make_family(family, tmp_path)
    task = {"name": "sequence-classification", "head": head}
    model = pefttools.wrap(base, method, task=task, labels=["a", "b", "c"], precision="float32")
    rows = [{"input_ids": model.tokenizer(text)["input_ids"]} for text in TEXTS]
    alone = torch.cat([model.run_batch(dict(model.tokenizer.pad([row], return_tensors="pt"))) for row in rows])
    assert alone.unique(dim=0).shape[0] == len(rows)
    for side in ("right", "left"):
        padded = model.run_batch(dict(model.tokenizer.pad(rows, padding_side=side, return_tensors="pt")))
        torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["model", "mean"])
def test_a_tokenizer_that_pads_with_another_token_than_the_base(head: str, tmp_path: Path) -> None:
    """RoBERTa counts positions from its own padding token's, in training, in a pool and merged."""
    from tests.matrix import try_cell

    base = Path(make_family("roberta", tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}))
    cell = try_cell(str(base), "lora", head, tmp_path)
    assert cell.refused is None and cell.merged is None and cell.pooled is None
