"""An imported adapter is served over HTTP beside a trained one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pefttools
from tests.pefttools.importers.foreign import KINDS, LABELS, by_peft, make

from .conftest import Server


@pytest.mark.parametrize("kind", ["rank and alpha patterns", "biases of lora", "prefix"])
def test_an_imported_adapter_answers_as_peft_does(
    kind: str, serve: Callable[..., Server], tiny_bert: str, classifiers: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = make(KINDS[kind], tiny_bert, tmp_path / "peft")
    pefttools.import_adapter(folder, tiny_bert, tmp_path / "artifact", labels=LABELS)
    server = serve(tiny_bert, {"ours": [classifiers(3)], "foreign": [tmp_path / "artifact"]})
    text = "which card is it"
    found = server.http.post("/v1/classify", json={"model": "foreign", "input": [text]}).json()["data"][0]
    batch = dict(pefttools.load(tmp_path / "artifact").tokenizer([text], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    scores = by_peft(KINDS[kind], tiny_bert, folder, batch)[0].softmax(-1)
    assert found["label"] == LABELS[int(torch.argmax(scores))]
    assert found["score"] == pytest.approx(float(scores.max()), abs=1e-5)
    ours = server.http.post("/v1/classify", json={"model": "ours", "input": text}).json()["data"][0]
    assert ours["label"] == "t3-3"
