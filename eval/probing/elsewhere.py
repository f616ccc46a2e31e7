"""A process of its own that loads artifacts: what is saved must not need the process that trained it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pefttools.testing.subject import Rows, answers_of


class Elsewhere:
    """Answers rows by an artifact that another process has loaded; it ends with the one that asks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(torch.get_num_threads(),))
        # A process that was started by multiprocessing waits for its own before the pool would tell them to end, which
        # it does by a queue: those are closed at a priority of 10.
        Finalize(self, self._pool.shutdown, exitpriority=20)

    def answers(self, artifact: Path, rows: Rows) -> torch.Tensor:
        """Logits of an artifact."""
        return torch.from_numpy(self._pool.submit(_answered, artifact, rows).result())


def _start(threads: int) -> None:
    from pefttools.logs import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries()


def _answered(artifact: Path, rows: Rows) -> np.ndarray[Any, Any]:
    return answers_of(artifact, rows).numpy()
