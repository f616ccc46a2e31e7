"""Every type of adapter that PEFT has is registered, and what can't be trained says why."""

from __future__ import annotations

import peft
import pytest

import pefttools
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
