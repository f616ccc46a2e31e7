"""What happens where there are cards, emulated: several of them, several processes, weights beside deltas."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import pefttools
from pefttools.bases import locate_base, variants
from pefttools.bases.loading import load_transformer
from pefttools.bases.skeleton import skeleton
from pefttools.compute.deterministic import deterministic
from pefttools.compute.precision import (
    autocast_dtype,
    check_precision,
    default_device,
    hardware_dtype,
    precision_there,
    resolve_precision,
)
from pefttools.compute.processes import unused_cards
from pefttools.deltas import (
    AdapterDeltas,
    Bias,
    Dense,
    InputScale,
    LowRank,
    OutputScale,
    Replace,
    SiteDelta,
    WeightScale,
)
from pefttools.deltas.merge import folded
from pefttools.errors import CapacityError, ConfigError, TrainingError, is_out_of_memory
from pefttools.eval.cards import Cards, card_facts, visible_cards
from pefttools.planning.counter import StorageCounter
from pefttools.planning.device import find_device
from pefttools.planning.plan import Planned, Shape
from pefttools.pool.weight_slots import Allocation, WeightSlots
from pefttools.recipe import Recipe
from pefttools.training.fit import _arguments
from pefttools.training.trainer import TuningTrainer


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two cards, as far as anybody asks; gives the numbers of those that were chosen."""
    chosen = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    return chosen


def test_of_two_cards_one_is_used(tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(self: TrainingArguments) -> torch.device:
        self._n_gpu = 2
        return torch.device("cpu")

    emulated = cached_property(devices)
    emulated.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", emulated)
    recipe = Recipe.model_validate(
        {"base": "b", "method": "lora", "task": "causal-lm", "data": {"train": "x.csv"}, "output": str(tmp_path),
         "training": {"batch_size": 8}}
    )  # fmt: skip
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm", precision="float32")
    arguments = _arguments(recipe, 1, model, 80, 1e-3, tmp_path)
    # Trainer wraps in DataParallel and multiplies its batches where n_gpu is more than one.
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 8


def test_that_a_card_is_unused_is_said(cards: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    told = unused_cards(cuda)
    assert told is not None and "2 GPUs visible, one used" in told and "torchrun --nproc_per_node 2" in told
    assert unused_cards(torch.device("cpu")) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert unused_cards(cuda) is None


@pytest.mark.parametrize(("rank", "count", "card"), [("1", 2, 1), ("0", 2, 0), (None, 2, 0), ("1", 1, 0)])
def test_each_process_has_its_own_card(
    rank: str | None, count: int, card: int, cards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert default_device() == torch.device("cuda", card)
    assert cards[-1] == card, "what is built next would be built on another card"


@pytest.mark.parametrize("delta", ["low_rank", "dense", "scales", "bias", "replace"])
def test_a_delta_is_folded_in_on_its_weights_card(delta: str) -> None:
    """Tensors without data, which refuse to be mixed between devices as those of a card do."""
    with FakeTensorMode():
        parameters = {"weight": torch.empty(4, 3, device="cuda"), "bias": torch.empty(4, device="cuda")}
        own = {
            "low_rank": SiteDelta(LowRank(torch.empty(2, 3), torch.empty(4, 2))),
            "dense": SiteDelta(Dense(torch.empty(4, 3))),
            "scales": SiteDelta(InputScale(torch.empty(3)), WeightScale(torch.empty(4)), OutputScale(torch.empty(4))),
            "bias": SiteDelta(Bias(torch.empty(4))),
            "replace": SiteDelta(Replace({"weight": torch.empty(4, 3)})),
        }[delta]
        found = folded(parameters, own, "classifier")
    assert {one.device.type for one in found.values()} == {"cuda"}


def test_whoever_runs_out_of_memory_is_understood() -> None:
    said = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("HIP out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ]
    assert all(map(is_out_of_memory, said))
    assert not any(map(is_out_of_memory, (RuntimeError("mat1 and mat2 shapes"), ValueError("out of memory"))))


def _ia3(base: str, folder: Path) -> Path:
    model = pefttools.wrap(base, "ia3", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"])
    pefttools.save(model, folder)
    return folder


@pytest.mark.parametrize("room", [2, 0])
def test_a_pool_whose_card_is_full_lets_an_adapter_go(
    room: int, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = WeightSlots.allocate
    pool = pefttools.AdapterPool(tiny_bert)

    def tried(weight_slots: WeightSlots, deltas: AdapterDeltas) -> Allocation:
        if len(pool.resident) >= room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return place(weight_slots, deltas)

    monkeypatch.setattr(WeightSlots, "allocate", tried)
    for name in "abc":
        artifact = _ia3(tiny_bert, tmp_path / name)
        if room:
            pool.load(name, artifact)
            continue
        with pytest.raises(CapacityError, match="memory"):
            pool.load(name, artifact)
    assert pool.resident == (["b", "c"] if room else [])
    assert pool.evictions == (1 if room else 0)


@pytest.mark.timeout(60)
def test_an_adapter_that_never_fits_is_refused(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try begins stacks of its own, which are no room that was found."""
    pool = pefttools.AdapterPool(tiny_bert)
    pool.load("a", _ia3(tiny_bert, tmp_path / "a"))
    lora = pefttools.wrap(
        tiny_bert, "lora", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"]
    )
    pefttools.save(lora, tmp_path / "lora")
    before = pool.bytes()
    write = WeightSlots._write

    def full(weight_slots: WeightSlots, deltas: AdapterDeltas, allocation: Allocation) -> None:
        write(weight_slots, deltas, allocation)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(WeightSlots, "_write", full)
        with pytest.raises(CapacityError, match="memory"):
            pool.load("b", tmp_path / "lora")
    assert pool.resident == [] and pool.bytes() < before, "what was begun is still held"
    pool.load("b", tmp_path / "lora")
    assert pool(["hello"], ["b"])[0].label is not None


def test_each_run_of_a_comparison_has_its_own_card() -> None:
    cards = Cards(["0", "GPU-aa"], 2, share=False)
    first, second = cards.take(), cards.take()
    assert {first, second} == {"0", "GPU-aa"}
    assert cards.environment(second) == {
        "CUDA_VISIBLE_DEVICES": second, "PEFTTOOLS_BENCH_JOBS": "2", "PEFTTOOLS_BENCH_CARD_SHARED": "0",
    }  # fmt: skip
    cards.give(second)
    assert cards.take() == second
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        Cards(["0", "1"], 3, share=False)
    shared = Cards(["0"], 2, share=True)
    assert shared.environment(shared.take())["PEFTTOOLS_BENCH_CARD_SHARED"] == "1"
    none = Cards([], 4, share=False)
    assert none.take() is None and "CUDA_VISIBLE_DEVICES" not in none.environment(None)


@pytest.mark.parametrize(("given", "names"), [(None, ["0", "1"]), ("3,1", ["3", "1"]), ("1,0,-1", ["1", "0"])])
def test_cards_are_named_as_they_are_visible(
    given: str | None, names: list[str], cards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_cards() == names


def test_a_record_says_which_card_and_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert card_facts() == {}
    for name, value in Cards(["5"], 2, share=True).environment("5").items():
        monkeypatch.setenv(name, value)
    assert card_facts() == {"jobs": 2, "card": "5", "card_shared": True}


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "int8", "nf4"])
def test_a_base_is_loaded_to_its_device_and_not_moved_there(
    variant: str, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it stands whole in RAM first, or on the card that is the current one."""
    from transformers import BertModel

    asked = []
    load = BertModel.from_pretrained

    def asking(*args: Any, **options: Any) -> Any:
        asked.append(options.get("device_map"))
        return load(*args, **options)

    monkeypatch.setattr(BertModel, "from_pretrained", asking)
    pefttools.AdapterPool(tiny_bert, variant=variant, device="cpu")
    pefttools.wrap(
        tiny_bert, "lora", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"], variant=variant
    )
    assert asked == [{"": torch.device("cpu")}] * 2


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "int8", "nf4"])
def test_loading_takes_little_more_memory_than_what_is_loaded(
    variant: str, tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # the counter sees its own thread alone
    counter = StorageCounter(torch.device("cpu"))
    with counter:
        model, _ = load_transformer(
            AutoModelForCausalLM, locate_base(tiny_llama), variants.get(variant)(torch.device("cpu"))
        )
    stored = sum(path.stat().st_size for path in Path(tiny_llama).glob("*.safetensors"))
    assert counter.peak.total() <= 1.2 * stored
    assert next(model.parameters()).device.type == "cpu"


@pytest.fixture
def old_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], torch.device]:
    """Gives a card of a compute capability before bfloat16, as far as anybody asks."""

    def card(major: int, minor: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Old Card")
        return torch.device("cuda", 0)

    return card


def test_cards_before_bfloat16_compute_in_float16(old_card: Callable[[int, int], torch.device]) -> None:
    card = old_card(7, 5)
    assert resolve_precision("auto", card) == "float16"
    assert hardware_dtype(card) == torch.float16  # what nf4 computes in
    assert autocast_dtype("auto", "nf4", card) == torch.float16
    assert autocast_dtype("float32", "float32", card) is None
    assert autocast_dtype("auto", "bfloat16", card) == torch.bfloat16
    assert precision_there("bfloat16", card) == "float16"
    assert precision_there("float16", torch.device("cpu")) in ("bfloat16", "float32")
    assert resolve_precision("auto", old_card(6, 1)) == "float32"


@pytest.mark.parametrize(("precision", "variant"), [("bfloat16", "float32"), ("auto", "bfloat16")])
def test_bfloat16_on_a_card_without_is_warned_of(
    precision: str, variant: str, old_card: Callable[[int, int], torch.device]
) -> None:
    with pytest.warns(UserWarning, match=r"Old Card has no native bfloat16"):
        check_precision(precision, variant, old_card(7, 0))


def test_whoever_trains_in_a_loop_of_their_own_is_told_of_float16(
    tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttools.compute.precision.resolve_precision", lambda *_: "float16")
    with pytest.warns(UserWarning, match=r"scale the loss of your loop \(torch\.amp\.GradScaler\)"):
        pefttools.wrap(tiny_llama, "lora", task="causal-lm")


def test_float16_without_a_card_is_refused(tiny_llama: str) -> None:
    with pytest.raises(ConfigError, match="float16 needs a CUDA GPU"):
        pefttools.wrap(tiny_llama, "lora", task="causal-lm", precision="float16")


def test_int8_on_a_card_without_its_products_is_refused(old_card: Callable[[int, int], torch.device]) -> None:
    with pytest.raises(ConfigError, match=r"int8' needs a GPU of compute capability 7\.5, and Old Card has 7\.0"):
        variants.get("int8")(old_card(7, 0)).check()
    variants.get("int8")(old_card(7, 5)).check()
    variants.get("nf4")(old_card(7, 0)).check()


def test_gradients_are_scaled_where_the_model_computes_in_float16(
    tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(
        {"base": "b", "method": "lora", "task": "causal-lm", "data": {"train": "x.csv"}, "output": str(tmp_path)}
    )
    model = pefttools.wrap(tiny_llama, "lora", task="causal-lm", precision="float32")
    assert not _arguments(recipe, 1, model, 80, 1e-3, tmp_path).fp16
    model.autocast = torch.float16
    assert _arguments(recipe, 1, model, 80, 1e-3, tmp_path).fp16


@pytest.mark.parametrize("variant", ["float32", "nf4"])
def test_the_planner_plans_float16_for_cards_before_bfloat16(variant: str, tiny_llama: str) -> None:
    t4, a100 = (
        Planned(skeleton(tiny_llama), "causal-lm", "lora", variant, 0, find_device(name)) for name in ("t4", "a100-40")
    )
    shape = Shape(4, 32)
    assert t4.precision(shape) == "float16" and a100.precision(shape) == "bfloat16"
    # The same sizes, but for flash attention, which the older card has not.
    assert t4.training_bytes(shape) == pytest.approx(a100.training_bytes(shape), rel=0.05)


def test_a_pool_that_is_slow_on_its_card_says_so(tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = pefttools.AdapterPool(tiny_bert).served
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert served.advice() is None  # on the CPU
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "New Card")
    monkeypatch.setattr(type(served), "device", torch.device("cuda", 0))
    advice = served.advice()
    assert advice is not None and "New Card is slow" in advice and "--dtype bfloat16" in advice
    monkeypatch.setattr(type(served), "dtype", torch.bfloat16)
    assert served.advice() is None


def test_stacks_have_the_format_of_the_hidden_states(tiny_llama: str) -> None:
    def dtype(variant: str, dtype: torch.dtype | None = None) -> torch.dtype:
        return pefttools.AdapterPool(tiny_llama, variant=variant, dtype=dtype)._weight_slots.options.dtype

    assert dtype("float32") == torch.float32
    assert dtype("bfloat16") == dtype("float32", torch.bfloat16) == torch.bfloat16
    assert dtype("nf4") == torch.float32  # whose states are float32


def test_an_adapter_that_a_call_fetches_itself_is_told(tiny_bert: str, tmp_path: Path) -> None:
    pool = pefttools.AdapterPool(tiny_bert, max_resident=1)
    for name in "ab":
        pool.load(name, _ia3(tiny_bert, tmp_path / name))
    pool(["hello"], ["b"])
    assert pool.take_fetched() == []
    pool(["hello"], ["a"])
    assert pool.take_fetched() == ["a"]
    assert pool.take_fetched() == []


def test_an_accelerator_that_is_no_card_is_said_to_be_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    told = unused_cards(torch.device("cpu"))
    assert told is not None and "the mps device of this machine is not used" in told


def test_deterministic_algorithms_are_taken_for_the_training_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(TrainingError, match=r"training\.deterministic: put_ .*deterministic"), deterministic(True):
        raise RuntimeError("put_ does not have a deterministic implementation, but you set ...")
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_recipe_that_wants_it_trains_deterministically(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    step = TuningTrainer.training_step

    def watched(trainer: TuningTrainer, *args: object, **options: object) -> torch.Tensor:
        seen.add(torch.are_deterministic_algorithms_enabled())
        return step(trainer, *args, **options)

    monkeypatch.setattr(TuningTrainer, "training_step", watched)
    for wanted in (True, False):
        seen.clear()
        pefttools.train(
            {"base": tiny_bert, "method": "lora", "data": dict(intents), "output": str(tmp_path / str(wanted)),
             "task": {"name": "sequence-classification", "head": "mean"},
             "training": {"max_steps": 2, "batch_size": 8, "checkpoints": False, "deterministic": wanted}}
        )  # fmt: skip
        assert seen == {wanted}


def test_a_pool_in_16_bits_never_holds_its_base_in_32(
    tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What half of the memory is promised for must not need all of it to begin with."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # the counter sees its own thread alone
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    counter = StorageCounter(torch.device("cpu"))
    with counter:
        pool = pefttools.AdapterPool(str(tmp_path), dtype=torch.bfloat16, device="cpu")
    size = sum(p.nbytes for p in pool.served.model.parameters())
    assert pool.served.dtype == torch.bfloat16
    assert counter.peak.total() <= 1.2 * size
