"""Impossible sizes in a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from pefttools.errors import BaseModelError

#: what transformers raises if sizes make no sense
OF_CONFIGURATIONS = (ValueError, KeyError, TypeError, ZeroDivisionError, StrictDataclassError)
_AT_LEAST_ONE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


def check_given(name: str, given: Mapping[str, Any]) -> None:
    """Refuse impossible sizes in a configuration file, before transformers computes with them.

    Raises:
        BaseModelError: names the field.
    """
    for field in _AT_LEAST_ONE:
        _check_one(name, field, given.get(field))


def _check_one(name: str, field: str, value: Any) -> None:
    if isinstance(value, int) and value < 1:
        raise BaseModelError(f"the configuration of {name!r}: {field} must be at least 1, not {value}")


def check_sizes(name: str, config: Any, given: Mapping[str, Any]) -> None:
    """Refuse impossible sizes, and a missing one for which planning would silently use a default.

    Args:
        name: name of the base, for messages.
        config: transformers' configuration.
        given: contents of its file.

    Raises:
        BaseModelError: names the field.
    """
    text = config.get_text_config()
    names = {field: text.attribute_map.get(field, field) for field in _AT_LEAST_ONE}
    for field, own in names.items():
        _check_one(name, own, getattr(text, field, None))
    heads, groups = (getattr(text, field, None) for field in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise BaseModelError(
            f"the configuration of {name!r}: {names['num_attention_heads']}={heads} can't be divided by "
            f"{names['num_key_value_heads']}={groups}"
        )
    # Configurations of several parts may leave out defaults; those of a single model name their size.
    if text is config and hasattr(config, "hidden_size") and not {"hidden_size", names["hidden_size"]} & given.keys():
        raise BaseModelError(
            f"the configuration of {name!r} has no {names['hidden_size']}: {config.hidden_size} would be used, the "
            f"default of a {config.model_type}",
            hint="Add it to config.json.",
        )
