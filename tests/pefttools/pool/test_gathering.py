"""Weights of a call's rows are gathered once, however many tokens are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.pool.stack import Stack

from .makers import Make


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_gathers_once(beams: int, tiny_llama: str, artifact: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pefttools.AdapterPool(tiny_llama)
    names = [f"{method}-0" for method in ("lora", "ia3", "bottleneck")]
    for name in names:
        pool.load(name, artifact(tiny_llama, "lm", name.partition("-")[0], 0))
    gathered = 0
    select = torch.index_select

    def counted(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        nonlocal gathered
        gathered += any(tensor is one for site in pool._weight_slots.sites.values() for stack in site.stacks.values()
                        for one in stack.tensors.values())  # fmt: skip
        return select(tensor, *args, **options)

    monkeypatch.setattr(torch, "index_select", counted)
    texts = ["a text", "another text", "a third"]
    counts = []
    for new in (2, 12):
        gathered = 0
        pool.generate(texts, names, max_new_tokens=new, num_beams=beams, eos_token_id=-1)
        counts.append(gathered)
    stacks: list[Stack] = [stack for site in pool._weight_slots.sites.values() for stack in site.stacks.values()]
    assert counts[0] == counts[1] == sum(len(stack.tensors) for stack in stacks) > 0
    routing = pool._weight_slots.routing
    assert not routing.keeping and not routing.gathered._found, "other rows would be given these rows' weights"


def test_the_memory_serves_the_next_call_and_goes_with_its_stacks(tiny_llama: str, artifact: Make) -> None:
    pool = pefttools.AdapterPool(tiny_llama)
    for number in range(2):
        pool.load(str(number), artifact(tiny_llama, "lm", "lora", number))
    alone = {name: pool.generate(["a text"], [name], max_new_tokens=6) for name in ("0", "1")}
    room = pool._weight_slots.routing.gathered._room
    places = {key: tensor.data_ptr() for key, tensor in room.items()}
    assert places
    assert pool.generate(["a text"], ["0"], max_new_tokens=6) == alone["0"]
    assert {key: tensor.data_ptr() for key, tensor in room.items()} == places
    texts = pool.generate(["a text"] * 3, ["1", "0", "1"], max_new_tokens=6)
    assert texts == [*alone["1"], *alone["0"], *alone["1"]]
    assert pool.generate(["a text"], ["1"], max_new_tokens=6) == alone["1"]
    for name in ("0", "1"):
        pool.unload(name)
    assert pool._weight_slots.compact()
    assert not pool._weight_slots.routing.gathered._room


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
