"""The Python functions behind ``import pefttools``. The command line does nothing that these can't."""

from pefttools.api.artifacts import compose, export, import_adapter, inspect, merge, push_to_hub, verify
from pefttools.api.models import evaluate, load, predict, save, train, wrap

__all__ = [
    "compose",
    "evaluate",
    "export",
    "import_adapter",
    "inspect",
    "load",
    "merge",
    "predict",
    "push_to_hub",
    "save",
    "train",
    "verify",
    "wrap",
]
