"""Checkpoints that are already stored in a few bits: those that transformers can load as plain weights, and the rest.

A variant says in which format a base is held. A checkpoint that comes in its own format would bypass that, so it is
turned into plain weights, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pefttools.errors import BaseModelError, ConfigError

#: transformers' name of a format -> its class of configuration, with which a checkpoint is read as plain weights
_READ = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
#: format -> what transformers would need to compute with it
_NEEDS = {
    "gptq": "optimum and gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "compressed-tensors": "compressed-tensors",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}


def packed_format(folder: Path) -> str | None:
    """transformers' name of the low-bit format that a checkpoint is stored in; None if its weights are plain."""
    given = _given(folder)
    return None if given is None else str(given.get("quant_method", "a format without a name"))


def check_packed_format(name: str, folder: Path) -> None:
    """Refuse a checkpoint that can't be read as plain weights.

    Args:
        name: name of the base, for the message.
        folder: folder of its ``config.json``.

    Raises:
        BaseModelError: names the format, and what would be needed.
    """
    kind = packed_format(folder)
    if kind is None or kind in _READ:
        return
    bits = (_given(folder) or {}).get("bits")
    needs = f", and transformers would need {_NEEDS[kind]} to read it" if kind in _NEEDS else ""
    raise BaseModelError(
        f"the base model {name!r} is already stored as {f'{bits}-bit ' if bits else ''}{kind}{needs}: adapters can't "
        "be trained on it here",
        hint="Give the checkpoint that it was made from, with the variant nf4 or int8.",
    )


def plain_weights(name: str, folder: Path, variant: str, quantized: bool) -> dict[str, Any]:
    """What transformers is told in order to read a checkpoint as plain weights; nothing if they are plain.

    Args:
        name: name of the base, for the message.
        folder: folder of its ``config.json``.
        variant: name of the variant.
        quantized: whether the variant stores weights in a few bits itself.

    Raises:
        ConfigError: the variant would have to quantize what is quantized already.
    """
    kind = packed_format(folder)
    if kind is None:
        return {}
    if quantized:
        raise ConfigError(
            f"the base model {name!r} is already stored as {kind}, and can't be stored as {variant}",
            hint="Choose the variant bfloat16 or float32, for which its weights are dequantized.",
        )
    import transformers

    return {"quantization_config": getattr(transformers, _READ[kind])(dequantize=True)}


def _given(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):  # reported by whatever reads the rest of it
        return None
    return found if isinstance(found, dict) else None
