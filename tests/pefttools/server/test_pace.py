"""Batches of bulk work are as long as those of the callers beside it, and lose nothing."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence

import pytest

from pefttools.server.batching import Batcher, WaitingRow
from pefttools.server.pace import Pace


def test_bulk_work_takes_no_longer_than_what_it_delays() -> None:
    pace = Pace(0.01)
    assert pace.budget(0.0) == math.inf, "nothing is known"
    pace.ran(True, 320, 0.32, 1.0)
    assert pace.budget(1.0) == math.inf, "nobody else is about"
    pace.ran(False, 10, 0.05, 2.0)
    assert pace.budget(2.0) == pytest.approx(95), "1.5 times 0.05 s and twice 0.01 s, of 0.001 s each"
    assert pace.budget(8.0) == math.inf, "the other has gone"


def _settled(own: float, each: float) -> float:
    """Rows of a batch after many, where a batch takes `own` and each of its rows `each` seconds."""
    pace = Pace(0.0)
    pace.ran(False, 1, own + each, 0.0)
    rows = 32.0
    for _ in range(200):
        pace.ran(True, rows, own + each * rows, 0.0)
        rows = max(1, min(32, int(pace.budget(0.0))))
    return rows


def test_its_size_settles_where_batches_have_a_cost_of_their_own() -> None:
    assert _settled(0.010, 0.0001) == 32, "as on a GPU: it takes hardly longer than one row"
    assert _settled(0.020, 0.002) in (6, 7), "20 ms and 6 times 2 ms are 1.5 times 22 ms, nearly"


def test_one_slow_batch_changes_little() -> None:
    pace = Pace(0.0)
    for _ in range(9):
        pace.ran(True, 10, 0.1, 0.0)
        pace.ran(False, 1, 0.05, 0.0)
    pace.ran(True, 1, 3.0, 0.0)
    pace.ran(False, 1, 3.0, 0.0)
    assert pace.budget(0.0) == pytest.approx(7.5)


def test_bulk_work_runs_apart_from_others() -> None:
    """700 rows of one caller, 20 of others while they run: each row once, and no batch with both."""
    batches: list[list[WaitingRow]] = []
    enough, begun = threading.Event(), threading.Event()

    def run(rows: Sequence[WaitingRow]) -> None:
        batches.append(list(rows))
        begun.set()
        enough.wait(10)
        for row in rows:
            row.finish(row.work)

    batcher = Batcher(run, max_batch=16, max_adapters=99, max_wait=0.0, max_queue=1000, max_run=1.0, whole="k")

    async def ask() -> None:
        bulk = batcher.submit("k", "a", range(700), "bulk")
        while not begun.is_set():
            await asyncio.sleep(0.001)
        others = [batcher.submit("k", "a", range(5), f"other{number}") for number in range(4)]
        enough.set()
        for rows, count in ((bulk, 700), *((rows, 5) for rows in others)):
            assert await asyncio.gather(*(row.future for row in rows)) == list(range(count))

    asyncio.run(ask())
    assert batcher.close(5)
    assert sum(map(len, batches)) == 720
    kinds = [{row.owner == "bulk" for row in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[1:]), "they share a batch"
    # Each of five callers has a fifth: the others' five rows each are done long before the bulk's seven hundred.
    assert kinds[1] == {False}
    assert max(place for place, kind in enumerate(kinds) if kind == {False}) < 8 < 40 < len(kinds)


@pytest.mark.parametrize("wanted", ["waits", "nobody waits"])
def test_who_can_go_on_later_gives_way(wanted: str) -> None:
    seen: list[tuple[str, ...]] = []

    def run(rows: Sequence[WaitingRow]) -> None:
        seen.append(tuple(row.owner for row in rows))
        if "long" in seen[-1] and len(seen) == 1:
            begun.set()
            go.wait(10)
            assert batcher.gives_way(0.5, 1) is (wanted == "waits")
            assert not batcher.gives_way(0.05, 1), "it has hardly begun"
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


def test_nobody_gives_way_to_himself() -> None:
    """A caller whose rows fill the batch gains nothing by reading all of it anew."""
    asked: dict[str, bool] = {}
    begun, go = threading.Event(), threading.Event()

    def run(rows: Sequence[WaitingRow]) -> None:
        if not begun.is_set():
            begun.set()
            go.wait(10)
            asked["full"] = batcher.gives_way(9.0, 2)
            asked["room"] = batcher.gives_way(9.0, 1)
        for row in rows:
            row.finish(None)

    batcher = Batcher(run, max_batch=2, max_adapters=9, max_wait=0.0, max_queue=9, max_run=0.1)

    async def ask() -> None:
        rows = batcher.submit("k", None, range(2), "one")
        while not begun.is_set():
            await asyncio.sleep(0.001)
        rows += batcher.submit("k", None, range(2), "one")
        go.set()
        await asyncio.gather(*(row.future for row in rows))

    asyncio.run(ask())
    batcher.close(5)
    assert asked == {"full": False, "room": True}


def test_work_counts_for_the_pace_and_not_rows() -> None:
    """Short rows first, which run fast; then as many long ones of the same caller."""
    batches: list[list[WaitingRow]] = []

    def run(rows: Sequence[WaitingRow]) -> None:
        batches.append(list(rows))
        time.sleep(0.0005 * len(rows) * max(row.size for row in rows))
        for row in rows:
            row.finish(None)

    batcher = Batcher(run, max_batch=16, max_adapters=9, max_wait=0.0, max_queue=999, max_run=9.0, whole="k")

    async def ask() -> None:
        rows = batcher.submit("k", None, range(100), "bulk", [1.0] * 100)
        rows += batcher.submit("k", None, range(60), "bulk", [10.0] * 60)
        while not all(row.future.done() for row in rows):
            await batcher.submit("k", None, [0], "other", [1.0])[0].future
            await asyncio.sleep(0.002)

    asyncio.run(ask())
    batcher.close(5)
    long = [len(batch) for batch in batches if batch[0].owner == "bulk" and max(row.size for row in batch) > 1]
    assert max(long) <= 4, long


def test_what_gives_way_runs_with_as_many_as_there_are() -> None:
    """Its time does not depend on its rows: fewer of them would only waste it."""
    sizes: list[int] = []

    def run(rows: Sequence[WaitingRow]) -> None:
        bulk = sum(row.owner == "bulk" for row in rows)
        if bulk:
            sizes.append(bulk)
        time.sleep(0.01 if bulk else 0.001)
        for row in rows:
            row.finish(None)

    batcher = Batcher(run, max_batch=8, max_adapters=9, max_wait=0.0, max_queue=999, max_run=9.0, whole=("other",))

    async def ask() -> None:
        rows = batcher.submit("k", None, range(200), "bulk")
        while not all(row.future.done() for row in rows):
            await batcher.submit("k", None, [0], "light")[0].future
            await asyncio.sleep(0.005)

    asyncio.run(ask())
    batcher.close(5)
    assert sum(sizes) == 200 and sorted(sizes)[len(sizes) // 2] >= 6
