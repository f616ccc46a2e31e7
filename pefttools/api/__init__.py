"""The Python functions behind ``import pefttools``. The command line does nothing that these can't."""

from pefttools.api.artifacts import (
    compose,
    export,
    import_adapter,
    inspect,
    merge,
    norms,
    push_to_hub,
    sign,
    signing_key,
    verify,
)
from pefttools.api.knowledge import index, search
from pefttools.api.models import evaluate, load, predict, save, train, wrap
from pefttools.api.planning import largest_fit, plan, plan_pool
from pefttools.installation import doctor
from pefttools.tasks.starters import new

__all__ = [
    "compose",
    "doctor",
    "evaluate",
    "export",
    "import_adapter",
    "index",
    "inspect",
    "largest_fit",
    "load",
    "merge",
    "new",
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
]
