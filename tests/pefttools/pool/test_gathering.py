"""Weights of a call's rows are gathered once, however many tokens are generated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pefttools
from pefttools.pool.stacks import Stack

from .makers import Make


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_gathers_once(beams: int, tiny_llama: str, artifact: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pefttools.AdapterPool(tiny_llama)
    names = [f"{method}-0" for method in ("lora", "ia3", "bottleneck")]
    for name in names:
        pool.load(name, artifact(tiny_llama, "lm", name.partition("-")[0], 0))
    gathered = 0
    select = torch.Tensor.index_select

    def counted(self: torch.Tensor, *args: object) -> torch.Tensor:
        nonlocal gathered
        gathered += any(self is one for site in pool._shelf.sites.values() for stack in site.stacks.values()
                        for one in stack.tensors.values())  # fmt: skip
        return select(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "index_select", counted)
    texts = ["a text", "another text", "a third"]
    counts = []
    for new in (2, 12):
        gathered = 0
        pool.generate(texts, names, max_new_tokens=new, num_beams=beams, eos_token_id=-1)
        counts.append(gathered)
    stacks: list[Stack] = [stack for site in pool._shelf.sites.values() for stack in site.stacks.values()]
    assert counts[0] == counts[1] == sum(len(stack.tensors) for stack in stacks) > 0
    assert pool._shelf.routing.kept is None, "what was gathered is held on to"


def test_an_adapter_that_comes_while_others_write_changes_nothing(
    tiny_llama: str, artifact: Make, tmp_path: Path
) -> None:
    """Stacks grow and slots are written while a call keeps what it gathered before."""
    pool = pefttools.AdapterPool(tiny_llama, max_resident=30)
    pool.load("one", artifact(tiny_llama, "lm", "lora", 0))
    wanted = pool.generate(["a text"], ["one"], max_new_tokens=12)
    loaded = 0

    def load(*_: object) -> None:
        nonlocal loaded
        pool.load(f"other{loaded}", artifact(tiny_llama, "lm", "lora", 1))
        loaded += 1

    handle = pool.served.model.register_forward_pre_hook(load)
    try:
        assert pool.generate(["a text"], ["one"], max_new_tokens=12) == wanted
    finally:
        handle.remove()
    assert loaded >= 10
