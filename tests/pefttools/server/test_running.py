"""A batch that fails is tried again row by row, without what the failure left in memory."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

from pefttools.pool.running import Answer
from pefttools.server.batching import Batcher, Row
from pefttools.server.metrics import Metrics
from pefttools.server.running import CLASSIFY, BatchRunner


class _Logits:
    """Stands for the tensors of a batch."""


class _Pool:
    """Has no room for more than one row at a time."""

    class tokenizer:
        @staticmethod
        def pad(rows: Sequence[Any], **options: Any) -> dict[str, Any]:
            return {"rows": rows}

    def __init__(self) -> None:
        self.left: list[weakref.ref[_Logits]] = []

    def __call__(self, batch: dict[str, Any], adapters: Sequence[str | None]) -> list[Answer]:
        import torch

        assert not [one for one in self.left if one() is not None], "the failed batch is still in memory"
        large = _Logits()
        if len(adapters) > 1:
            self.left.append(weakref.ref(large))
            raise torch.OutOfMemoryError("no room")
        return [Answer(None, torch.tensor([1.0, 0.0]), None, ("a", "b"))]


def test_a_retry_has_the_memory_of_what_failed() -> None:
    pool: Any = _Pool()
    runner = BatchRunner(pool, Metrics(), lambda: batcher)
    batcher = Batcher(runner, max_batch=4, max_adapters=4, max_wait=0.05, max_queue=9, max_run=1.0)

    async def ask() -> list[Any]:
        rows: list[Row] = batcher.submit(CLASSIFY, None, [{"input_ids": [1]}] * 3)
        return [await row.future for row in rows]

    found = asyncio.run(ask())
    assert batcher.close(5)
    assert len(pool.left) == 1 and [max(one, key=one.__getitem__) for one in found] == ["a"] * 3
