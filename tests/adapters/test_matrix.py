"""Every family of models x every method x every head: right, or refused before weights are loaded; nothing else.

A row alone gives what it gives padded, on either side, in training's own model, loaded again, merged and in a pool.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families import DECODERS, FAMILIES, make_family
from tests.matrix import Cell, cells, try_cell

#: combinations of which each was wrong, or ended in another library's error, and a few that must stay right
SLICE = [
    ("gpt2", "prompt", "model", None),
    ("llama", "prompt", "model", None),
    ("xlnet", "head", "model", None),
    ("albert", "lora", "model", None),
    ("deberta", "lora", "mean", None),
    ("mpnet", "bitfit", "mean", None),
    ("roberta", "ia3", "model", None),
    ("modernbert", "ia3", "model", None),
    ("distilbert", "prompt", "mean", None),
    ("opt", "lora", "lm", None),
    ("deepseek", "lora", "lm", None),
    ("deepseek", "prefix", "lm", "its cache holds compressed latents"),
    ("falcon-h1", "prefix", "lm", "it has layers that keep a recurrent state"),
    ("falcon", "prefix", "lm", "its keys have fewer heads"),
    ("modernbert", "prefix", "mean", "its attention takes no keys and values"),
    ("electra", "prompt", "mean", "its embeddings have size 16, but its states 32"),
    ("mamba", "lora", "lm", None),
    ("falcon-h1", "lora", "lm", None),
    ("t5", "lora", "mean", "an encoder and a decoder; such a model can only write texts from texts, or classify"),
    ("t5", "lora", "model", "decoder_start_token_id"),
    ("t5-start", "lora", "model", None),
    ("bart", "lora", "model", None),
    ("bart", "prompt", "model", "it takes no embeddings|an encoder and a decoder"),
]


#: of them, what merges to the same answers, and what a pool serves; a refusal would hide that it no longer does
MERGED = {("albert", "lora"), ("deberta", "lora"), ("mpnet", "bitfit"), ("roberta", "ia3"), ("modernbert", "ia3"),
          ("t5-start", "lora"), ("bart", "lora")}  # fmt: skip
POOLED = {
    ("gpt2", "prompt"), ("llama", "prompt"), ("deepseek", "lora"), ("xlnet", "head"), ("albert", "lora"),
    ("mpnet", "bitfit"), ("roberta", "ia3"), ("modernbert", "ia3"), ("distilbert", "prompt"),
}  # fmt: skip


def _try(family: str, method: str, head: str, folder: Path) -> Cell:
    return try_cell(make_family(family, folder / "base"), method, head, folder)


@pytest.mark.parametrize(("family", "method", "head", "refusal"), SLICE)
def test_a_slice_of_all(family: str, method: str, head: str, refusal: str | None, tmp_path: Path) -> None:
    import re

    cell = _try(family, method, head, tmp_path)
    if refusal is None:
        assert cell.refused is None
        if (family, method) in MERGED:
            assert cell.merged is None
        if (family, method) in POOLED:
            assert cell.pooled is None
    else:
        assert cell.refused is not None and re.search(refusal, cell.refused) and not cell.loaded


def test_what_can_not_be_merged_is_refused_by_name(tmp_path: Path) -> None:
    cell = _try("xlnet", "lora", "model", tmp_path)
    assert cell.merged is not None and "answers from the last position" in cell.merged


def test_what_can_not_be_pooled_is_refused_by_name(tmp_path: Path) -> None:
    cell = _try("opt", "lora", "mean", tmp_path)
    assert cell.pooled is not None and "rows of a batch of" in cell.pooled


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all(family: str, tmp_path: Path) -> None:
    base = make_family(family, tmp_path / "base")
    late = []
    for number, (_, method, head) in enumerate(cells({family: FAMILIES[family]}, DECODERS)):
        cell = try_cell(base, method, head, tmp_path / str(number))
        if cell.refused is not None and cell.loaded:
            late.append(f"{method}, {head}: {cell.refused}")
    assert not late
