"""A separate process that loads artifacts: what is saved must not need the process that trained it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pefttools.testing.subject import Rows, answers_of


class Elsewhere:
    """Answers rows with an artifact that another process has loaded; that process exits with its parent."""

    def __init__(self) -> None:
        self._pool = self._begun()
        # A process started by multiprocessing waits for its children before the pool would tell them to exit, which it
        # does through a queue: queues are closed at a priority of 10.
        Finalize(self, _end, args=(self.__dict__,), exitpriority=20)

    def _begun(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(torch.get_num_threads(),))

    def answers(self, artifact: Path, rows: Rows) -> torch.Tensor:
        """Logits of an artifact.

        Raises:
            RuntimeError: the process died; the next artifact gets a new one.
        """
        try:
            return torch.from_numpy(self._pool.submit(_answered, artifact, rows).result())
        except BrokenProcessPool as error:
            self.close()
            self._pool = self._begun()
            raise RuntimeError("the process that was to load the artifact died") from error

    def close(self) -> None:
        """Let the process exit."""
        self._pool.shutdown()


def _end(state: dict[str, Any]) -> None:
    state["_pool"].shutdown()


def _start(threads: int) -> None:
    from pefttools.logs import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries()


def _answered(artifact: Path, rows: Rows) -> np.ndarray[Any, Any]:
    return answers_of(artifact, rows).numpy()
