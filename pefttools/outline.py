"""Trying a combination with only the base's configuration: what can't work is refused before weights are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from pefttools.bases import Base, BaseVariant, variants
from pefttools.bases.skeleton import Skeleton
from pefttools.building import build
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import Method, MethodConfig
from pefttools.tasks import Task


def check_on_outline(
    base: Base, variant: str, method: Method[Any], config: MethodConfig, task: Task[Any], labels: Sequence[str]
) -> None:
    """Build a model without weights, on the meta device, to see whether the real one can be built.

    Raises:
        PeftToolsError: what `build` raises.
        ConfigError: an error of another library, with that error's message.
    """
    if isinstance(base, Skeleton):
        return
    method.check_base(config, base)
    if variants.get(variant).stand_in is BaseVariant.stand_in:
        return  # it can't be outlined
    outline = Skeleton(base.id, base.folder, base.revision)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # the real one warns, once
            build(outline, variant, method, config, task, labels, precision="float32", seed=0)
    except PeftToolsError:
        raise
    except RuntimeError:
        return  # from an operation that needs numbers, as PiSSA's initialisation does: the real base will tell
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise ConfigError(
            f"the method {method.name!r} can't be used on the base {base.id!r} ({base.model_type}): "
            f"{lines[0] if lines else type(error).__name__}",
            hint="Choose another method, or other modules through its options.",
        ) from error
