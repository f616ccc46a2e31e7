"""A process of its own that loads artifacts: what is saved must not need the process that trained it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pefttools.testing.subject import Rows, answers_of


class Elsewhere:
    """Answers rows by an artifact that another process has loaded. A context: the process ends with it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(torch.get_num_threads(),))

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def answers(self, artifact: Path, rows: Rows) -> torch.Tensor:
        """Logits of an artifact."""
        return torch.from_numpy(self._pool.submit(_answered, artifact, rows).result())


def _start(threads: int) -> None:
    from pefttools.logs import quiet_libraries

    torch.set_num_threads(threads)
    quiet_libraries()


def _answered(artifact: Path, rows: Rows) -> np.ndarray[Any, Any]:
    return answers_of(artifact, rows).numpy()
