"""A method or variant that breaks its contract is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pefttools
from pefttools.adapters.head import HeadOnly
from pefttools.adapters.lora import Lora
from pefttools.bases import BaseVariant, variants
from pefttools.bases.builtin import Float32
from pefttools.deltas import AdapterDeltas, LowRank, SiteDelta
from pefttools.errors import ConfigError
from pefttools.methods import Method, methods
from pefttools.testing import check_method, check_variant
from pefttools.testing.subject import as_near, in_float32

Register = Callable[[type[Method[Any]]], str]


@pytest.fixture
def register() -> Iterator[Register]:
    names: list[str] = []

    def add(plugin: type[Method[Any]]) -> str:
        plugin.name = f"broken-{plugin.__name__.lower()}"
        methods.register(plugin.name)(plugin)
        names.append(plugin.name)
        return plugin.name

    yield add
    for name in names:
        methods.unregister(name)


class TrainsMore(HeadOnly):
    """Says that it trains the head alone."""

    def wrap(self, model: nn.Module, config: Any, target: Any) -> nn.Module:
        return model.requires_grad_(True)


class ForgetsItsState(Lora):
    """Loads a fresh adapter."""

    def load(self, model: nn.Module, folder: Path, config: Any, target: Any) -> nn.Module:
        return self.wrap(model, config, target)


class MergesNothing(Lora):
    """Gives the base back."""

    def merge(self, model: nn.Module) -> nn.Module:
        plain: nn.Module = model.unload()  # type: ignore[operator]
        return plain


class DoublesItsDeltas(Lora):
    """Says twice of what it does."""

    def state_deltas(self, state: Any, options: Any, model: Any) -> AdapterDeltas:
        found = super().state_deltas(state, options, model)
        doubled = {}
        for name, delta in found.sites.items():
            update = delta.get(LowRank)
            assert update is not None
            doubled[name] = SiteDelta(LowRank(update.a, 2 * update.b))
        return AdapterDeltas(doubled)


class WritesPickles(Lora):
    """Leaves a pickle beside its weights."""

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        super().save(model, folder, base_id)
        torch.save({}, folder / "more.bin")


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (TrainsMore, "declares that it trains only the head"),
        (ForgetsItsState, "a loaded artifact is off by"),
        (MergesNothing, "answers differ from the adapter"),
        (DoublesItsDeltas, "a row of a pool is off by"),
        (WritesPickles, "a pickle was written"),
    ],
)
def test_a_method_that_breaks_its_word_is_found_out(
    plugin: type[Method[Any]], said: str, register: Register, tiny_bert: str, tmp_path: Path
) -> None:
    task = {"name": "sequence-classification", "head": "mean"}
    with pytest.raises(AssertionError, match=said):
        check_method(register(plugin), base=tiny_bert, folder=tmp_path, task=task)


def test_what_is_wrong_is_told_from_rounding_in_16_bits(register: Register, tiny_bert: str, tmp_path: Path) -> None:
    task = {"name": "sequence-classification", "head": "mean"}
    with pytest.raises(AssertionError, match="a row of a pool is off by"):
        check_method(register(DoublesItsDeltas), base=tiny_bert, folder=tmp_path, task=task, variant="bfloat16")


def test_a_result_may_be_as_far_from_the_exact_one_as_the_other_is() -> None:
    exact, other = torch.tensor([1.0, 2.0]), torch.tensor([1.05, 2.0])
    assert as_near(torch.tensor([1.0, 1.95]), other, exact, 0.0)
    assert not as_near(torch.tensor([1.0, 1.94]), other, exact, 0.0)
    assert not as_near(torch.tensor([1.0, float("nan")]), other, exact, 1.0)


def test_a_copy_in_float32_has_the_same_weights_and_leaves_the_model_alone(tiny_bert: str) -> None:
    model = pefttools.wrap(tiny_bert, "lora", labels=["a", "b"], variant="bfloat16")
    copied = in_float32(model)
    assert copied.autocast is None
    for (name, one), (_, other) in zip(copied.named_parameters(), model.named_parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other.float()), name
    assert torch.bfloat16 in {parameter.dtype for parameter in model.parameters()}


def test_a_variant_that_drifts_is_found_out(tiny_bert: str, tmp_path: Path) -> None:
    class Loose(Float32):
        """Its weights change whenever it runs."""

        name = "loose"

        def after_load(self, model: nn.Module) -> None:
            def drift(module: nn.Module, args: Any) -> None:
                module.weight.data.mul_(1.01)

            next(module for module in model.modules() if isinstance(module, nn.Linear)).register_forward_pre_hook(drift)

    variants.register("loose")(Loose)
    try:
        with pytest.raises(AssertionError, match=r"neighbours change its logits|has changed its"):
            check_variant("loose", base=tiny_bert, folder=tmp_path)
    finally:
        variants.unregister("loose")


def test_a_variant_that_can_not_be_planned_is_trained_all_the_same(tiny_bert: str, tmp_path: Path) -> None:
    """It needs no stand-in: then nothing is known of it before it is loaded."""

    class Plain(BaseVariant):
        name = "plain"
        summary = "float32, without a stand-in"

        def load_arguments(self, keep: list[str], stored: torch.dtype) -> dict[str, Any]:
            return {"dtype": torch.float32}

    variants.register("plain")(Plain)
    try:
        assert check_variant("plain", base=tiny_bert, folder=tmp_path) is not None
        with pytest.raises(ConfigError, match="the variant 'plain' can't be planned"):
            pefttools.plan(tiny_bert, methods=["lora"], variants=["plain"])
    finally:
        variants.unregister("plain")
