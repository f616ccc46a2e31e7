"""torch.compile: adapters come and go, stacks grow, batches change, and one graph serves them all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import pefttools
from pefttools.artifact import save_artifact
from pefttools.errors import ConfigError

from .makers import TEXTS, Make, assert_close


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tiny_llama: str) -> list[Path]:
    """100 LoRA adapters of one rank."""
    model = pefttools.wrap(
        tiny_llama, "lora", r=4, task={"name": "sequence-classification", "head": "last"}, labels=["a", "b"]
    )
    folder = tmp_path_factory.mktemp("many")
    for number in range(100):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.1)
        pefttools.save(model, folder / str(number))
    return [folder / str(number) for number in range(100)]


@pytest.mark.slow
def test_one_graph_for_loads_growths_and_batches(tiny_llama: str, many: list[Path]) -> None:
    pool = pefttools.AdapterPool(tiny_llama, max_resident=60, compile=True)
    plain = pefttools.AdapterPool(tiny_llama, max_resident=60)
    pool.load("0", many[0])
    torch._dynamo.reset()
    counters.clear()
    pool(TEXTS, ["0", "0", "0", "0"])
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 1
    capacities = set()
    for number in range(1, 100):
        pool.load(str(number), many[number])
        plain.load(str(number), many[number])
        capacities |= {slots.capacity for slots in pool._weight_slots.slots.values()}
        if number % 20 == 0:
            rows = 2 + number // 20
            texts = [TEXTS[index % 3] for index in range(rows)]
            names = [str(number - index) for index in range(rows)]
            for found, wanted in zip(pool(texts, names), plain(texts, names), strict=True):
                assert found.logits is not None
                assert wanted.logits is not None
                assert_close(found.logits, wanted.logits)
    assert len(capacities) == 4  # three growths
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


EVERY_KIND = [
    "lora-0",
    "lora-2",
    "ia3-0",
    "bitfit-0",
    "bottleneck-0",
    "bottleneck-1",
    "bottleneck-2",
    "prefix-0",
    "prompt-0",
]


def _loaded(base: str, chosen: list[str], artifact: Make) -> tuple[pefttools.AdapterPool, pefttools.AdapterPool]:
    pools = pefttools.AdapterPool(base, compile=True), pefttools.AdapterPool(base)
    for name in chosen:
        method, number = name.split("-")
        for one in pools:
            one.load(name, artifact(base, "mean", method, int(number)))
    return pools


@pytest.mark.slow
def test_every_kind_compiles(tiny_bert: str, artifact: Make) -> None:
    pool, plain = _loaded(tiny_bert, EVERY_KIND, artifact)
    texts = [TEXTS[index % 4] for index in range(len(EVERY_KIND))]
    counters.clear()
    for found, wanted in zip(pool(texts, EVERY_KIND), plain(texts, EVERY_KIND), strict=True):
        assert found.logits is not None
        assert wanted.logits is not None
        assert_close(found.logits, wanted.logits)
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_pairs_have_graphs_too(tiny_bert: str, tmp_path: Path) -> None:
    model = pefttools.wrap(
        tiny_bert, "ia3", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"]
    )
    save_artifact(model, tmp_path / "pairs", columns={"text": "one", "pair": "other", "label": "label"})
    pool = pefttools.AdapterPool(tiny_bert, compile=True)
    pool.load("pairs", tmp_path / "pairs")
    assert pool.warm_up(rows=[2]).graphs == 2
    both = pool.tokenizer(["a text", "one"], ["another", "two"], return_tensors="pt", padding=True)
    pool(both, ["pairs", "pairs"])
    pool(both, ["pairs", None])
    pool(both | {"token_type_ids": torch.zeros_like(both["input_ids"])}, ["pairs", "pairs"])
    assert pool._runner._run.plain == 0


@pytest.mark.parametrize(("chosen", "sizes", "graphs"), [
    # with a prefix or without
    pytest.param(["ia3-0", "prefix-0", "prefix-2"], [2], 2, marks=pytest.mark.slow),
    # prefix, prompt, both or neither; a single row has three of them
    pytest.param([*EVERY_KIND, "prefix-2"], [1, 2], 7, marks=pytest.mark.slow),
])  # fmt: skip
def test_warmed_up_it_never_compiles_again(
    chosen: list[str], sizes: list[int], graphs: int, tiny_bert: str, artifact: Make
) -> None:
    pool, plain = _loaded(tiny_bert, chosen, artifact)
    counters.clear()
    warm = pool.warm_up(rows=sizes)
    assert warm.graphs == counters["stats"]["unique_graphs"] == graphs
    assert warm.seconds > 0
    draw = random.Random(0)
    for _ in range(30):
        names = [draw.choice([*chosen, None]) for _ in range(draw.choice((*sizes, 3, 7)))]
        asked = [draw.choice(TEXTS) for _ in names]
        for found, wanted in zip(pool(asked, names), plain(asked, names), strict=True):
            if wanted.logits is not None:
                assert found.logits is not None
                assert_close(found.logits, wanted.logits)
    assert counters["stats"]["unique_graphs"] == graphs
    assert pool._runner._run.plain == 0, "calls that ran without a graph"
    assert not counters["graph_break"]


@pytest.mark.slow
def test_what_comes_after_warming_up_runs_without_a_graph(tiny_bert: str, artifact: Make) -> None:
    pool = pefttools.AdapterPool(tiny_bert, compile=True)
    plain = pefttools.AdapterPool(tiny_bert)
    with pytest.raises(ConfigError, match="compile=True"):
        plain.warm_up()
    pool.load("one", artifact(tiny_bert, "mean", "ia3", 0))
    pool.warm_up(rows=[2])
    counters.clear()
    for own in (pool, plain):
        own.load("new", artifact(tiny_bert, "mean", "lora", 0))
    for found, wanted in zip(pool(TEXTS[:2], ["new", "new"]), plain(TEXTS[:2], ["new", "new"]), strict=True):
        assert found.logits is not None and wanted.logits is not None
        assert_close(found.logits, wanted.logits)
    assert counters["stats"]["unique_graphs"] == 0 and pool._runner._run.plain == 1
    assert pool.warm_up(rows=[2]).graphs == 1
    pool(TEXTS[:3], ["new", "new", None])
    assert pool._runner._run.plain == 0


@pytest.mark.slow
def test_loads_while_a_compiled_call_runs(tiny_llama: str, many: list[Path]) -> None:
    """Growing stacks in another thread: no weights are lost, none end up elsewhere."""
    from concurrent.futures import ThreadPoolExecutor

    pool = pefttools.AdapterPool(tiny_llama, max_resident=100, compile=True)
    plain = pefttools.AdapterPool(tiny_llama, max_resident=100)
    pool.load("0", many[0])
    pool(TEXTS[:2], ["0", "0"])

    def load() -> None:
        for number in range(1, 60):
            pool.load(str(number), many[number])

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load)
        while not loading.done():
            pool(TEXTS[:2], ["0", "0"])
        loading.result()
    for number in range(60):
        plain.load(str(number), many[number])
    names = [str(number) for number in range(60)]
    texts = [TEXTS[index % 3] for index in range(60)]
    for found, wanted in zip(pool(texts, names), plain(texts, names), strict=True):
        assert found.logits is not None
        assert wanted.logits is not None
        assert_close(found.logits, wanted.logits)
