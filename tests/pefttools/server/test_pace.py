"""Batches of bulk work are as long as those of the callers beside it, and lose nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from pefttools.server.batching import Batcher, Row
from pefttools.server.pace import Pace


def test_bulk_work_takes_no_longer_than_what_it_delays() -> None:
    pace = Pace(0.01)
    assert pace.limit(32, 0.0) == 32, "nothing is known"
    pace.ran(True, 32, 0.32, 1.0)
    assert pace.limit(32, 1.0) == 32, "nobody else is about"
    pace.ran(False, 1, 0.05, 2.0)
    assert pace.limit(32, 2.0) == 9, "1.5 times 0.05 s and twice 0.01 s, of 0.01 s per row"
    assert pace.limit(4, 2.0) == 4
    assert pace.limit(32, 8.0) == 32, "the other has gone"


def test_its_size_settles_where_batches_have_a_cost_of_their_own() -> None:
    """As on a GPU: 10 ms per batch, 0.1 ms per row; and where rows have a cost, 20 ms and 2 ms."""
    pace = Pace(0.0)
    pace.ran(False, 1, 0.0121, 0.0)
    rows = 32
    for _ in range(200):
        pace.ran(True, rows, 0.010 + 0.0001 * rows, 0.0)
        rows = pace.limit(32, 0.0)
    assert rows == 32, "that they take hardly longer than one row"
    pace = Pace(0.0)
    pace.ran(False, 1, 0.022, 0.0)
    for _ in range(200):
        pace.ran(True, rows, 0.020 + 0.002 * rows, 0.0)
        rows = pace.limit(32, 0.0)
    assert rows in (6, 7), "20 ms and 6 times 2 ms are 1.5 times 22 ms, nearly"
    pace = Pace(0.0)
    pace.ran(False, 1, 0.022, 0.0)
    rows = 32
    for _ in range(200):
        pace.ran(True, rows, 0.020 + 0.002 * rows, 0.0)
        rows = pace.limit(32, 0.0)
    assert rows == 6, "20 ms and 6 times 2 ms are 1.5 times 22 ms, nearly"


def test_one_slow_batch_changes_little() -> None:
    pace = Pace(0.0)
    for _ in range(9):
        pace.ran(True, 10, 0.1, 0.0)
        pace.ran(False, 1, 0.05, 0.0)
    pace.ran(True, 1, 3.0, 0.0)
    pace.ran(False, 1, 3.0, 0.0)
    assert pace.limit(32, 0.0) == 7


def test_bulk_work_runs_apart_from_others() -> None:
    """700 rows of one caller, 40 of others while they run: each row once, and no batch with both."""
    batches: list[list[Row]] = []
    enough, begun = threading.Event(), threading.Event()

    def run(rows: Sequence[Row]) -> None:
        batches.append(list(rows))
        begun.set()
        enough.wait(10)
        for row in rows:
            row.finish(row.work)

    batcher = Batcher(run, max_batch=16, max_adapters=99, max_wait=0.0, max_queue=1000, max_run=1.0)

    async def ask() -> None:
        bulk = batcher.submit("k", "a", range(700), "bulk")
        while not begun.is_set():
            await asyncio.sleep(0.001)
        others = [batcher.submit("k", "a", range(10), f"other{number}") for number in range(4)]
        enough.set()
        for rows, count in ((bulk, 700), *((rows, 10) for rows in others)):
            assert await asyncio.gather(*(row.future for row in rows)) == list(range(count))

    asyncio.run(ask())
    assert batcher.close(5)
    assert sum(map(len, batches)) == 740
    kinds = [{row.owner == "bulk" for row in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[1:]), "they share a batch"
    # Each of five callers has a fifth: the others' ten rows each are done long before the bulk's seven hundred.
    assert kinds[1] == {False}
    assert max(place for place, kind in enumerate(kinds) if kind == {False}) < 8 < 40 < len(kinds)


@pytest.mark.parametrize("wanted", ["waits", "nobody waits"])
def test_who_can_go_on_later_gives_way(wanted: str) -> None:
    seen: list[tuple[str, ...]] = []

    def run(rows: Sequence[Row]) -> None:
        seen.append(tuple(row.owner for row in rows))
        if "long" in seen[-1] and len(seen) == 1:
            begun.set()
            go.wait(10)
            assert batcher.gives_way(0.5) is (wanted == "waits")
            assert not batcher.gives_way(0.05), "it has hardly begun"
            if wanted == "waits":
                batcher.again(rows)
                return
        for row in rows:
            row.finish(row.goes_on)

    begun, go = threading.Event(), threading.Event()
    batcher = Batcher(run, max_batch=1, max_adapters=9, max_wait=0.0, max_queue=9, max_run=0.1)

    async def ask() -> list[bool]:
        rows = batcher.submit("k", None, [1], "long", [100.0])
        while not begun.is_set():
            await asyncio.sleep(0.001)
        if wanted == "waits":
            rows += batcher.submit("k", None, [2], "short")
        go.set()
        return [bool(await row.future) for row in rows]

    found = asyncio.run(ask())
    batcher.close(5)
    assert seen == ([("long",), ("short",), ("long",)] if wanted == "waits" else [("long",)])
    assert found == ([True, False] if wanted == "waits" else [False])


def test_a_server_that_is_stuck_is_closed_all_the_same() -> None:
    stuck = threading.Event()
    batcher = Batcher(lambda rows: (stuck.wait(20), None)[1], max_batch=1, max_adapters=1, max_wait=0, max_queue=9,
                      max_run=1.0)  # fmt: skip

    async def ask() -> None:
        rows = batcher.submit("k", None, [1, 2])
        assert await asyncio.get_running_loop().run_in_executor(None, batcher.close, 0.1) is False
        for row in rows:
            with pytest.raises(Exception, match="has stopped"):
                await row.future

    asyncio.run(ask())
    stuck.set()
