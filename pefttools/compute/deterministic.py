"""The same numbers from the same training in every run, on a GPU too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pefttools.errors import TrainingError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A context in which torch only uses algorithms that give the same result every time.

    A GPU's fastest ones add numbers up in whatever order its threads finish. Afterwards all is as it was, except for
    the environment variable that cuBLAS reads when it is first used.

    Args:
        wanted: if not, nothing changes.

    Raises:
        TrainingError: an operation has no such algorithm.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    searching = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"training.deterministic: {str(error).splitlines()[0]}",
            hint="Set training.deterministic=false, or train on the CPU.",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = searching
