"""The Python functions behind ``import pefttools``. The command line does nothing that these can't."""

from pefttools.api.artifacts import compose, export, import_adapter, inspect, merge, norms, push_to_hub, verify
from pefttools.api.models import evaluate, load, predict, save, train, wrap
from pefttools.api.planning import plan

__all__ = [
    "compose",
    "evaluate",
    "export",
    "import_adapter",
    "inspect",
    "load",
    "merge",
    "norms",
    "plan",
    "predict",
    "push_to_hub",
    "save",
    "train",
    "verify",
    "wrap",
]
