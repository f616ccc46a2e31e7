"""Every type of adapter that PEFT has is registered, and what can't be trained says why."""

from __future__ import annotations

import re

import peft
import pytest

import pefttools
from pefttools.adapters.lora_starts import Start
from pefttools.errors import ConfigError
from pefttools.methods import methods

from ..methods import UNAVAILABLE

#: types that are called otherwise here
NAMES = {"prefix_tuning": "prefix", "prompt_tuning": "prompt"}


def test_none_is_missing() -> None:
    types = {NAMES.get(kind.value.lower(), kind.value.lower()) for kind in peft.PeftType}
    of_peft = {name for name in methods if methods.get(name).library == "peft"}
    assert types <= of_peft
    # What has a type's configuration with other options stands beside it.
    assert {getattr(methods.get(name), "peft_class", None) for name in of_peft - types} == {"LoraConfig"}


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_what_cannot_be_trained_says_why(name: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=f"the method {name!r} can't be used: ") as caught:
        pefttools.wrap(tiny_bert, name, labels=["a", "b"])
    assert str(methods.get(name).why_not) in caught.value.message


#: fields of PEFT's LoraConfig that options of `lora`, or methods beside it, stand for
LORA = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "use_rslora", "use_dora", "use_bdlora",
    "velora_config", "kasa_config", "monteclora_config",
    "init_lora_weights", "eva_config", "corda_config", "lora_ga_config", "loftq_config",
}  # fmt: skip
#: that choose layers, ranks or modules otherwise than here, or are set by the bridge
OTHERWISE = {
    "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save",
    "bias", "lora_bias", "fan_in_fan_out", "runtime_config", "trainable_token_indices", "ensure_weight_tying",
    "megatron_config", "megatron_core",
}  # fmt: skip
#: that the page of methods says are not here, and why
NOT_HERE = {
    "alora_invocation_tokens", "use_qalora", "qalora_group_size", "arrow_config",
    "layer_replication",
}  # fmt: skip


def test_every_option_of_lora_is_known() -> None:
    """An update of PEFT can't add one without a word."""
    import dataclasses
    import typing

    common = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    fields = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}
    assert fields.keys() - common == LORA | OTHERWISE | NOT_HERE
    starts = str(fields["init_lora_weights"].type)
    named = set(re.findall(r"'([\w ()\[\]]+)'", starts)) - {"pissa_niter_[number of iters]"}
    ours = set(typing.get_args(Start))
    assert named <= ours, named - ours
