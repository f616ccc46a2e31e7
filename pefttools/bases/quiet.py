"""Loading without the libraries' progress bars and reports."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and loading reports; the caller checks what matters in them."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with _errors_alone("bitsandbytes"):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_torchao() -> Iterator[None]:
    """Without torchao's messages on import about kernels for other devices."""
    with _errors_alone("torchao"), _errors_alone("torch.utils._pytree"):
        yield


@contextlib.contextmanager
def _errors_alone(name: str) -> Iterator[None]:
    library = logging.getLogger(name)
    before = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(before)
