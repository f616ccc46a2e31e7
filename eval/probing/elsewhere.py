"""A process of its own that loads artifacts: what is saved must not need the process that trained it."""

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
    """Answers rows by an artifact that another process has loaded; it ends with the one that asks."""

    def __init__(self) -> None:
        self._pool = self._begun()
        # A process that was started by multiprocessing waits for its own before the pool would tell them to end, which
        # it does by a queue: those are closed at a priority of 10.
        Finalize(self, _end, args=(self.__dict__,), exitpriority=20)

    def _begun(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(torch.get_num_threads(),))

    def answers(self, artifact: Path, rows: Rows) -> torch.Tensor:
        """Logits of an artifact.

        Raises:
            RuntimeError: the process died; the next artifact gets another one.
        """
        try:
            return torch.from_numpy(self._pool.submit(_answered, artifact, rows).result())
        except BrokenProcessPool as error:
            self.close()
            self._pool = self._begun()
            raise RuntimeError("the process that was to load the artifact died") from error

    def close(self) -> None:
        """Let the process end."""
        self._pool.shutdown()


def _end(state: dict[str, Any]) -> None:
    state["_pool"].shutdown()


def _start(threads: int) -> None:
    from pefttools.logs import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries()


def _answered(artifact: Path, rows: Rows) -> np.ndarray[Any, Any]:
    return answers_of(artifact, rows).numpy()
