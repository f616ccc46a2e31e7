"""What stays in memory: limits, eviction, swaps, threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ArtifactError, BaseModelError, CapacityError, ConfigError, UnknownNameError
from pefttools.pool import AdapterPool

from .makers import TEXTS, Make, assert_close


@pytest.fixture(scope="module")
def loras(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """LoRA number n answers with logits (n, 0) to everything."""
    folder = tmp_path_factory.mktemp("loras")
    task = {"name": "sequence-classification", "head": "mean"}

    def get(number: int) -> Path:
        if not (folder / str(number)).exists():
            model = pefttools.wrap(tiny_bert, "lora", r=2, task=task, labels=["a", "b"])
            with torch.no_grad():
                model.head.linear.weight.zero_()  # type: ignore[union-attr,operator]
                model.head.linear.bias.copy_(torch.tensor([float(number), 0.0]))  # type: ignore[union-attr,operator]
            pefttools.save(model, folder / str(number))
        return folder / str(number)

    return get


def _value(pool: AdapterPool, name: str) -> float:
    (answer,) = pool(["text"], [name])
    assert answer.logits is not None
    return float(answer.logits[0])


def test_least_recently_used_leave_first(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert, max_resident=3)
    for number in range(3):
        pool.load(str(number), loras(number))
    _value(pool, "0")
    pool.load("3", loras(3))
    assert pool.resident == ["2", "0", "3"]
    assert pool.known == ["0", "1", "2", "3"]
    assert _value(pool, "1") == 1.0  # comes back by itself
    assert pool.resident == ["0", "3", "1"]


def test_a_byte_budget_is_kept(tiny_bert: str, loras: Callable[[int], Path], artifact: Make) -> None:
    one = AdapterPool(tiny_bert, max_resident=64)
    one.load("0", loras(0))
    budget = one.bytes() + 5000  # one family's first slots, and a few heads
    pool = AdapterPool(tiny_bert, max_resident=64, max_bytes=budget)
    for number in range(20):
        pool.load(str(number), loras(number))
        assert pool.bytes() <= budget
        assert _value(pool, str(number)) == number
    assert 1 < len(pool.resident) < 8
    # Another kind needs room of its own: everything else must go, stacks too.
    pool.load("ia3", artifact(tiny_bert, "mean", "ia3", 0))
    assert pool.bytes() <= budget
    tiny = AdapterPool(tiny_bert, max_bytes=1000)
    with pytest.raises(CapacityError, match="'0' does not fit"):
        tiny.load("0", loras(0))
    assert tiny.resident == []


def test_more_adapters_in_one_call_than_fit(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert, max_resident=2)
    for number in range(3):
        pool.register(str(number), loras(number))
    with pytest.raises(CapacityError, match="3 different adapters in one call, but the pool holds 2"):
        pool(["a", "b", "c"], ["0", "1", "2"])
    assert [round(float(answer.logits[0])) for answer in pool(["a", "b"], ["2", "1"]) if answer.logits is not None] == [
        2, 1,
    ]  # fmt: skip


def test_a_name_takes_another_artifact(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert)
    pool.load("acme", loras(1))
    assert _value(pool, "acme") == 1.0
    pool.load("acme", loras(2))
    assert _value(pool, "acme") == 2.0
    pool.unload("acme")
    with pytest.raises(UnknownNameError, match="unknown adapter 'acme'"):
        _value(pool, "acme")
    with pytest.raises(UnknownNameError):
        pool.unload("acme")


def test_slots_are_clean_when_they_are_used_again(tiny_bert: str, artifact: Make) -> None:
    """An adapter at few sites, in the slot of one that was everywhere."""
    pool = AdapterPool(tiny_bert, max_resident=1)
    narrow_options = {"name": "lora", "r": 4, "targets": ["query"]}
    model = pefttools.wrap(
        tiny_bert, narrow_options, task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"]
    )
    narrow = artifact(tiny_bert, "mean", "lora", 0).parent / "narrow"
    pefttools.save(model, narrow)
    plain = AdapterPool(tiny_bert)
    plain.load("narrow", narrow)
    (wanted,) = plain([TEXTS[1]], ["narrow"])
    for other in (("lora", 0), ("lora", 1), ("lora", 2), ("bottleneck", 0), ("ia3", 0), ("bitfit", 0)):
        pool.load("wide", artifact(tiny_bert, "mean", *other))
        pool([TEXTS[1]], ["wide"])
        pool.load("narrow", narrow)
        (found,) = pool([TEXTS[1]], ["narrow"])
        assert found.logits is not None
        assert wanted.logits is not None
        assert_close(found.logits, wanted.logits)


def test_two_pools_do_not_touch_each_other(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    one, two = AdapterPool(tiny_bert), AdapterPool(tiny_bert)
    one.load("acme", loras(1))
    two.load("acme", loras(2))
    assert (_value(one, "acme"), _value(two, "acme")) == (1.0, 2.0)


def test_threads_get_their_own_answers(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    """Calls, loads, swaps and evictions at once: every row is its own adapter's."""
    pool = AdapterPool(tiny_bert, max_resident=6)
    for number in range(12):
        pool.register(str(number), loras(number))
    stop = threading.Event()

    def disturb() -> int:
        turns = 0
        while not stop.is_set():
            pool.load(str(turns % 12), loras(turns % 12))
            pool.evict(str((turns + 5) % 12))
            turns += 1
        return turns

    def ask(seed: int) -> int:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(40):
            numbers = torch.randint(0, 12, (3,), generator=generator).tolist()
            answers = pool(["a", "some text", "x"], [str(number) for number in numbers])
            for number, answer in zip(numbers, answers, strict=True):
                assert answer.logits is not None
                assert float(answer.logits[0]) == number
        return seed

    with ThreadPoolExecutor(5) as threads:
        disturbing = threads.submit(disturb)
        try:
            assert list(threads.map(ask, range(4))) == [0, 1, 2, 3]
        finally:
            stop.set()
        assert disturbing.result() > 10


def test_bad_input(tiny_bert: str, tiny_llama: str, loras: Callable[[int], Path], artifact: Make,
                   tmp_path: Path) -> None:  # fmt: skip
    pool = AdapterPool(tiny_bert)
    pool.load("acme", loras(1))
    with pytest.raises(UnknownNameError, match="Did you mean 'acme'"):
        pool(["text"], ["acne"])
    with pytest.raises(ConfigError, match="2 rows, but 1 adapters"):
        pool(["a", "b"], ["acme"])
    with pytest.raises(ConfigError, match="batch is empty"):
        pool([], [])
    with pytest.raises(ConfigError, match="must be a list of texts"):
        pool("text", ["acme"])
    with pytest.raises(ConfigError, match="must be a list of texts"):
        pool([3], ["acme"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="adapters must be a list"):
        pool(["text"], "acme")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        pool.register("nothing", tmp_path)
    with pytest.raises(ConfigError, match="batch is empty"):
        pool({"input_ids": torch.zeros(0, 1, dtype=torch.long)}, [])
    with pytest.raises(ConfigError, match="is an encoder: it can't generate"):
        pool.generate(["text"], ["acme"])
    with pytest.raises(BaseModelError, match="belongs to the base"):
        pool.load("llama", artifact(tiny_llama, "lm", "lora", 0))
    shutil.copytree(loras(1), tmp_path / "bad")
    file = tmp_path / "bad" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match="damaged"):
        pool.load("bad", tmp_path / "bad")
    assert pool.known == ["acme"]
    writer = AdapterPool(tiny_llama)
    writer.load("classifier", artifact(tiny_llama, "last", "lora", 0))
    with pytest.raises(ConfigError, match="'classifier' has a head of its own: it can't generate"):
        writer.generate(["text"], ["classifier"])
    with pytest.raises(ConfigError, match="max_resident must be at least 1"):
        AdapterPool(tiny_bert, max_resident=0)


def test_virtual_tokens_shorten_the_longest_text(tiny_gpt2: str, artifact: Make) -> None:
    pool = AdapterPool(tiny_gpt2)
    pool.load("prefix", artifact(tiny_gpt2, "lm", "prefix", 0))
    ids = torch.full((2, 124), 2000)
    assert len(pool({"input_ids": ids}, [None, None])) == 2
    with pytest.raises(ConfigError, match="129 tokens, including virtual ones, are more than the 128"):
        pool({"input_ids": ids}, ["prefix", None])
    assert len(pool({"input_ids": ids[:, :123]}, ["prefix", None])) == 2


def test_two_loads_of_one_adapter_leave_no_slot_behind(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert, max_resident=2)
    for number in range(8):
        pool.register(str(number), loras(number))
    with ThreadPoolExecutor(4) as threads:
        with pool._cache.hold(["0", "1"], []):
            # All of them wait for room, and then for one another.
            waiting = [threads.submit(pool.ensure, "2") for _ in range(3)]
            waiting.append(threads.submit(pool.load, "2", loras(2)))  # type: ignore[arg-type]
            assert not any(future.done() for future in waiting)
        for future in waiting:
            future.result()
    for number in range(8):
        assert _value(pool, str(number)) == number
    used = [slots.capacity - 1 - len(slots._free) for slots in pool._weight_slots.slots.values()]
    assert used == [len(pool.resident)] == [2]


def test_a_name_given_anew_while_it_is_resident(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert)
    pool.load("acme", loras(1))
    pool.register("acme", loras(2))
    assert _value(pool, "acme") == 2.0


def test_a_slow_fetch_does_not_bring_back_what_was_replaced(tiny_bert: str, loras: Callable[[int], Path]) -> None:
    pool = AdapterPool(tiny_bert)
    pool.register("acme", loras(1))
    prepare = pool._cache._prepare
    fetching, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> Any:
        found = prepare(folder)
        if folder == loras(1) and not fetching.is_set():
            fetching.set()
            go_on.wait(30)
        return found

    pool._cache._prepare = slow
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(_value, pool, "acme")
        fetching.wait(30)
        pool.load("acme", loras(2))
        go_on.set()
        assert answer.result() == 2.0
    assert _value(pool, "acme") == 2.0


def test_weights_of_another_shape_leave_no_slot_behind(tiny_bert: str, artifact: Make, tmp_path: Path) -> None:
    from dataclasses import replace

    from pefttools.deltas import LowRank, SiteDelta

    pool = AdapterPool(tiny_bert)
    pool.load("good", artifact(tiny_bert, "mean", "lora", 0))
    prepared = pool._cache._prepare(artifact(tiny_bert, "mean", "lora", 0))
    bad = {name: SiteDelta(LowRank(torch.zeros(4, 999), torch.zeros(64, 4))) for name in prepared.deltas.sites}
    before = [len(slots._free) for slots in pool._weight_slots.slots.values()]
    with pytest.raises(ArtifactError, match="do not fit the base"):
        pool._weight_slots.allocate(replace(prepared.deltas, sites=bad))
    assert [len(slots._free) for slots in pool._weight_slots.slots.values()] == before


def test_heads_of_the_model_while_others_are_loaded(tiny_bert: str, artifact: Make) -> None:
    """Running one adapter's head must not show in the weights of one that is being loaded."""
    pool = AdapterPool(tiny_bert, max_resident=8)
    folders = [artifact(tiny_bert, "model", "bitfit", number) for number in range(4)]
    wanted = []
    for number, folder in enumerate(folders):
        pool.load(str(number), folder)
        wanted.append(pool([TEXTS[1]], [str(number)])[0].logits)
    stop = threading.Event()

    def reload() -> int:
        turns = 0
        while not stop.is_set():
            pool.load(str(turns % 4), folders[turns % 4])
            turns += 1
        return turns

    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(reload)
        try:
            for turn in range(150):
                (answer,) = pool([TEXTS[1]], [str(turn % 4)])
                assert answer.logits is not None
                assert_close(answer.logits, wanted[turn % 4])  # type: ignore[arg-type]
        finally:
            stop.set()
        assert reloading.result() > 10
