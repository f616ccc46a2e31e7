"""Plans of models that are made otherwise than most: mixtures of experts, nested configurations, none of a kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PreTrainedConfig,
    T5Config,
)

from pefttools.bases import variants
from pefttools.bases.skeleton import skeleton
from pefttools.errors import BaseModelError, ConfigError
from pefttools.planning import device as devices
from pefttools.planning.counting import counting
from pefttools.planning.device import CARDS, CPU, GPU
from pefttools.planning.plan import Planned, Shape
from pefttools.pool.planned import plan_serving
from pefttools.sites import all_linear
from tests.conftest import save_base

from ...planned import plan
from .test_prediction import check

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 200, "pad_token_id": 0,
}  # fmt: skip


def _planned(config: PreTrainedConfig, folder: Path, variant: str = "float32", device: Any = CPU) -> Planned:
    config.save_pretrained(folder)
    return Planned(skeleton(str(folder)), "causal-lm", "lora", variant, 2, device)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_mixture_of_experts(method: str, tmp_path: Path) -> None:
    config = MixtralConfig(**SMALL | {"vocab_size": 30522}, num_local_experts=4)
    check(save_base(MixtralForCausalLM(config), tmp_path), method, "lm", "float32", "float32", (4, 32))


@pytest.mark.parametrize(
    "variant", ["nf4", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bfloat16", "int8"))]
)
def test_experts_in_any_format(variant: str, tmp_path: Path) -> None:
    row = _planned(MixtralConfig(**SMALL, num_local_experts=4), tmp_path, variant, GPU).row(Shape(2, 16))
    assert row.peak_bytes > row.weights_bytes > 0


def test_a_router_is_no_linear_layer(tmp_path: Path) -> None:
    planned = _planned(PhimoeConfig(**SMALL, num_local_experts=2), tmp_path)
    model, _ = planned.base.transformer(AutoModelForCausalLM, variants.get("float32")())
    assert {name.rpartition(".")[2] for name in all_linear(model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert planned.row(Shape(2, 16)).peak_bytes > 0


def test_the_longest_text_of_a_nested_configuration(tmp_path: Path) -> None:
    config = Gemma3Config(text_config={**SMALL, "max_position_embeddings": 256, "head_dim": 16})
    with pytest.raises(ConfigError, match="5000 tokens are more than the 256"):
        _planned(config, tmp_path).row(Shape(1, 5000))


def test_a_model_that_can_not_be_says_why(tmp_path: Path) -> None:
    assert _planned(MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=99), tmp_path / "mamba").row(
        Shape(1, 8)
    )
    with pytest.raises(BaseModelError, match="is a t5; transformers has no AutoModelForCausalLM of this type"):
        _planned(T5Config(), tmp_path / "t5").row(Shape(1, 8))


def test_whatever_goes_wrong_without_numbers_is_told(tmp_path: Path) -> None:
    planned = _planned(LlamaConfig(**SMALL), tmp_path)
    model = planned.build(Shape())
    from torch._subclasses.fake_tensor import FakeTensorMode

    with (
        pytest.raises(ConfigError, match="a model can't be traced: list index out of range"),
        counting(model, FakeTensorMode(), CPU, "a model"),
    ):
        [][0]


def test_a_configuration_without_architectures_is_served(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL)
    assert config.architectures is None
    assert plan_serving(_planned(config, tmp_path), Shape(4, 16, eval_batch_size=2), 3).adapters_bytes > 0


@pytest.mark.parametrize(("major", "card"), [(7, "t4"), (8, "a10"), (9, "h100")])
def test_the_card_of_this_process_is_that_of_its_capability(
    major: int, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * 2**30, 16 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    device, available = devices.this_device()
    alike = CARDS[card]
    assert (device.bfloat16, device.flash, device.workspace) == (alike.bfloat16, alike.flash, alike.workspace)
    assert 6.5 * 2**30 < available < 7 * 2**30, "what others hold is not there"


_LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 1000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, "has no hidden_size: 4096 would be used, the default of a llama"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, not 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be at least 1, not -1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        ({"hidden_size": 66}, r"can't be used: .*\(66\) is not a multiple of the number of attention heads \(4\)"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 can't be divided by num_key_value_heads=3"),
        ({"hidden_size": "many"}, "can't be used: .*expected int, got str"),
        ({"model_type": "bert", "hidden_size": None}, "has no hidden_size: 768 would be used"),
    ],
)
def test_configurations_that_no_model_can_have(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = {name: value for name, value in {**_LLAMA, **changes}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    task = "sequence-classification" if config["model_type"] == "bert" else "causal-lm"
    with pytest.raises(BaseModelError, match=said):
        plan(str(tmp_path), task=task)
