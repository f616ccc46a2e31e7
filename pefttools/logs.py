"""Keeping other libraries' chatter off a terminal, for programs (never on import)."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Show errors of the libraries below, but not their notices, which a user can do nothing about."""
    for name in (
        "bitsandbytes",
        "transformers",
        "accelerate",
        "datasets",
        "torch.distributed",
        "torchao",
        "torch.utils._pytree",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # set explicitly, so that tokenizers do not warn when a process is started next to them
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # of bars in a notebook, for which ipywidgets may be missing
    warnings.filterwarnings("ignore", message="IProgress not found")
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        for module in ("transformers", "peft", "torch", "bitsandbytes", "accelerate"):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\..*)?$")
