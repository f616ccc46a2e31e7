"""A batch that fails is tried again row by row, without what the failure left in memory."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

from pefttools.pool.running import Answer
from pefttools.server.batching import Batcher, WaitingRow
from pefttools.server.generating import Generation
from pefttools.server.metrics import Metrics
from pefttools.server.running import ANSWER, GENERATE, BatchRunner


class _Logits:
    """Stands for the tensors of a batch."""


class _Pool:
    """Has no room for more than one row at a time."""

    def take_fetched(self) -> list[str]:
        return []

    def __init__(self) -> None:
        self.left: list[weakref.ref[_Logits]] = []

    def answer(self, examples: Sequence[Any], adapters: Sequence[str | None]) -> list[Answer]:
        import torch

        assert not [one for one in self.left if one() is not None], "the failed batch is still in memory"
        large = _Logits()
        if len(adapters) > 1:
            self.left.append(weakref.ref(large))
            raise torch.OutOfMemoryError("no room")
        return [Answer(None, torch.tensor([1.0, 0.0]), None, ("a", "b"))]


def test_a_retry_has_the_memory_of_what_failed() -> None:
    pool: Any = _Pool()
    runner = BatchRunner(pool, Metrics(), lambda: batcher, lambda row: None)
    batcher = Batcher(runner, max_batch=4, max_adapters=4, max_wait=0.05, max_queue=9, max_run=1.0)

    async def ask() -> list[Any]:
        rows: list[WaitingRow] = batcher.submit(ANSWER, None, [{"input_ids": [1]}] * 3)
        return [await row.future for row in rows]

    found = asyncio.run(ask())
    assert batcher.close(5)
    assert len(pool.left) == 1 and [int(one.argmax()) for one in found] == [0] * 3


class _Writing:
    """Writes letters; of more than one row it fails at the tenth token."""

    class tokenizer:
        @staticmethod
        def pad(rows: Sequence[Any], **options: Any) -> dict[str, Any]:
            return {"rows": rows}

        @staticmethod
        def decode(tokens: list[int], skip_special_tokens: bool) -> str:
            return "".join(map(chr, tokens))

    class served:
        device = None

    def take_fetched(self) -> list[str]:
        return []

    def generate_tokens(self, inputs: dict[str, Any], adapters: Sequence[Any], **options: Any) -> None:
        import torch

        rows = len(adapters)
        for count in range(100):
            if rows > 1 and count == 10:
                raise torch.OutOfMemoryError("no room")
            if options["stopping_criteria"](torch.full((rows, 1), 97), None).all():
                return


def test_an_answer_that_had_ended_is_not_begun_anew_with_its_failed_batch() -> None:
    pool: Any = _Writing()
    runner = BatchRunner(pool, Metrics(), lambda: batcher, lambda row: None)
    batcher = Batcher(runner, max_batch=4, max_adapters=4, max_wait=0.05, max_queue=9, max_run=9.0)
    long, short = Generation([1], 40), Generation([1], 5)

    async def ask() -> list[tuple[str, str | None]]:
        rows = batcher.submit(GENERATE, None, [long, short])
        found = [await row.future for row in rows]
        return [(one.text, one.reason) for one in found]

    assert asyncio.run(ask()) == [("a" * 40, "length"), ("a" * 5, "length")]
    batcher.close(5)
    assert short.text == "a" * 5
