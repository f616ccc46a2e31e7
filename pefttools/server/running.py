"""Running a batch of rows that waited together, in the batcher's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from pefttools.errors import ArtifactError
from pefttools.pool import AdapterPool
from pefttools.pool.running import fetched
from pefttools.server.batching import Batcher, WaitingRow
from pefttools.server.generating import Control, Generation, Numbers
from pefttools.server.metrics import Metrics

ANSWER, GENERATE = "answer", "generate"


class BatchRunner:
    """Runs rows of one kind; a row that fails does not make others fail.

    Args:
        pool: runs them.
        metrics: counts batches and tokens.
        batcher: returns the batcher whose batches are run, which is created after its runner.
        loaded: called with rows whose adapters had to be loaded.
    """

    def __init__(
        self, pool: AdapterPool, metrics: Metrics, batcher: Callable[[], Batcher], loaded: Callable[[WaitingRow], None]
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._batcher = batcher
        self._loaded = loaded

    def __call__(self, rows: Sequence[WaitingRow]) -> None:
        self._metrics.batches.observe(len(rows))
        for row in rows:
            if not row.goes_on:
                self._metrics.queued.observe(time.monotonic() - row.since)
        good = []
        for row in rows:
            self._batcher().beat()
            try:
                if row.adapter is not None and self._pool.ensure(row.adapter):
                    self._loaded(row)
                good.append(row)
            except Exception as error:
                row.finish(error)
        work: Callable[[Sequence[WaitingRow]], None] = (
            self._answer if good and good[0].kind == ANSWER else self._generate
        )
        if not good:
            return
        try:
            work(good)
            return
        except Exception as error:
            if len(good) == 1:
                good[0].finish(error)
                return
        finally:
            self._report_fetched(good)
        # Out here the error is gone, and with it the tensors that its traceback holds.
        for row in good:
            if isinstance(row.work, Generation):
                if row.work.reason is not None:
                    continue  # it had ended, and was delivered
                row.work.restart()
            self([row])

    def _report_fetched(self, rows: Sequence[WaitingRow]) -> None:
        """Report adapters that were evicted between the check above and their call."""
        by_adapter = {row.adapter: row for row in rows}
        for name in self._pool.take_fetched():
            if name in by_adapter:
                self._loaded(by_adapter[name])

    def _answer(self, rows: Sequence[WaitingRow]) -> None:
        answers = fetched(self._pool.answer([row.work for row in rows], [row.adapter for row in rows]))
        for row, logits in zip(rows, answers, strict=True):
            row.finish(_no_numbers(row) if logits is None else logits)

    def _generate(self, rows: Sequence[WaitingRow]) -> None:
        works: list[Generation] = [row.work for row in rows]
        for row in rows:
            if not row.work.tokens:
                row.work.on_first = partial(self._first, row.since)
        before = sum(len(one.tokens) for one in works)
        open_rows = self._written(rows) if works[0].example is not None else self._continued(rows)
        self._metrics.tokens.inc(sum(len(one.tokens) for one in works) - before)
        self._batcher().again([row for row in rows if row in open_rows])
        for row in rows:
            if row not in open_rows:  # those that failed, or that nobody is waiting for any more
                row.finish(_no_numbers(row) if row.work.failed else row.work)

    def _continued(self, rows: Sequence[WaitingRow]) -> list[WaitingRow]:
        """Continue prompts; returns the rows that are to be continued later."""
        works: list[Generation] = [row.work for row in rows]
        prompts = [{"input_ids": [*one.prompt, *one.tokens]} for one in works]
        inputs = self._pool.tokenizer.pad(prompts, padding_side="left", return_tensors="pt")
        control, options = self._controlled(rows, Slice(self._batcher()))
        self._pool.generate_tokens(
            dict(inputs),
            [row.adapter for row in rows],
            written=[len(one.tokens) for one in works],
            **_of_works(works, self._pool.served.device),
            **options,
        )
        return control.going_on(rows)

    def _written(self, rows: Sequence[WaitingRow]) -> list[WaitingRow]:
        """The same for encoder-decoder models; rows with equally many tokens so far run together."""
        works: list[Generation] = [row.work for row in rows]
        going_on: list[Callable[[], list[WaitingRow]]] = []

        def options_of(own: Sequence[int]) -> dict[str, Any]:
            some = [rows[index] for index in own]
            control, options = self._controlled(some, Slice(self._batcher()))
            going_on.append(partial(control.going_on, some))
            return options

        self._pool.write_tokens(
            [one.example or {} for one in works], [row.adapter for row in rows], num_beams=1,
            begun=[list(one.tokens) for one in works], options_of=options_of,
            **_of_works(works, self._pool.served.device),
        )  # fmt: skip
        return [row for some in going_on for row in some()]

    def _controlled(self, rows: Sequence[WaitingRow], gives_way: Slice) -> tuple[Control, dict[str, Any]]:
        """The control of rows that run together, and the options that pass it to ``generate``."""
        numbers = Numbers()
        control = Control(
            [row.work for row in rows],
            [partial(getattr, row, "cancelled") for row in rows],
            [partial(row.finish, row.work) for row in rows],
            self._pool.tokenizer,
            gives_way,
            numbers,
        )
        options = {
            "stopping_criteria": StoppingCriteriaList([control]),
            "logits_processor": LogitsProcessorList([numbers]),
        }
        return control, options

    def _first(self, since: float) -> None:
        self._metrics.first.observe(time.monotonic() - since)


class Slice:
    """Decides, token by token, whether a batch gives way to waiting rows.

    What it has read is read again when it resumes. So it runs for at least as long as reading took, and giving way
    costs at most half of the throughput.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._begin = time.monotonic()
        self._read: float | None = None

    def __call__(self, rows: int) -> bool:
        """Called at every token, with the number of unfinished answers."""
        self._batcher.beat()
        now = time.monotonic()
        if self._read is None:
            self._read = now
            return False
        reading, writing = self._read - self._begin, now - self._read
        return writing > reading and self._batcher.gives_way(writing, rows)


def _of_works(works: Sequence[Generation], device: torch.device) -> dict[str, Any]:
    """How far each goes, and how its tokens are drawn."""
    return {
        "max_new_tokens": [one.max_tokens - len(one.tokens) for one in works],
        "sampling": [one.drawing(device) for one in works],
    }


def _no_numbers(row: WaitingRow) -> ArtifactError:
    named = "the base" if row.adapter is None else f"the adapter {row.adapter!r}"
    return ArtifactError(f"{named} gives non-finite values (NaN or infinite) for this row")
