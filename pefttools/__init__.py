"""pefttools: plug in, compare, save and swap parameter-efficient tuning methods for Hugging Face models.

Importing this package is cheap; torch is loaded when a function is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pefttools.api import compose as compose
    from pefttools.api import evaluate as evaluate
    from pefttools.api import export as export
    from pefttools.api import import_adapter as import_adapter
    from pefttools.api import index as index
    from pefttools.api import inspect as inspect
    from pefttools.api import largest_fit as largest_fit
    from pefttools.api import load as load
    from pefttools.api import merge as merge
    from pefttools.api import norms as norms
    from pefttools.api import plan as plan
    from pefttools.api import plan_pool as plan_pool
    from pefttools.api import predict as predict
    from pefttools.api import push_to_hub as push_to_hub
    from pefttools.api import save as save
    from pefttools.api import search as search
    from pefttools.api import sign as sign
    from pefttools.api import signing_key as signing_key
    from pefttools.api import train as train
    from pefttools.api import verify as verify
    from pefttools.api import wrap as wrap
    from pefttools.errors import PeftToolsError as PeftToolsError
    from pefttools.installation import doctor as doctor
    from pefttools.pool import AdapterPool as AdapterPool
    from pefttools.recipe import Recipe as Recipe
    from pefttools.store import Store as Store
    from pefttools.tasks.starters import new as new
    from pefttools.tuned import TunedModel as TunedModel

_HOMES = {
    **dict.fromkeys(
        (
            "compose",
            "evaluate",
            "export",
            "import_adapter",
            "index",
            "inspect",
            "largest_fit",
            "load",
            "merge",
            "norms",
            "plan",
            "plan_pool",
            "predict",
            "push_to_hub",
            "save",
            "search",
            "sign",
            "signing_key",
            "train",
            "verify",
            "wrap",
        ),
        "pefttools.api",
    ),
    "AdapterPool": "pefttools.pool",
    "PeftToolsError": "pefttools.errors",
    # not by way of pefttools.api, which can't be imported where torch is broken
    "doctor": "pefttools.installation",
    "new": "pefttools.tasks.starters",
    "Recipe": "pefttools.recipe",
    "Store": "pefttools.store",
    "TunedModel": "pefttools.tuned",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pefttools' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
