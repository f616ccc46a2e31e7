"""Progress from a worker to its parent: lines on standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pefttools.progress import Advance, Reporter, pace

SIGN = "@progress "


class PipeReporter(Reporter):
    """Writes a line per event, and marked lines for progress."""

    def event(self, text: str) -> None:
        """A plain line: it goes into the log."""
        print(text, flush=True)

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        """Marked lines, at most two a second."""
        start = time.monotonic()
        shown = 0.0

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal shown
            now = time.monotonic()
            if done < total and now - shown < 0.5:
                return
            shown = now
            text = f"{name} {done}/{total} {unit}, {pace(done, total, now - start)}"
            print(SIGN + json.dumps(f"{text}, {note}" if note else text), flush=True)

        self.event(f"{name}: started")
        yield advance
        self.event(f"{name}: done in {time.monotonic() - start:.1f} s")


def parse(line: str) -> tuple[str | None, str | None]:
    """Progress text or log text of a worker's line."""
    if line.startswith(SIGN):
        return str(json.loads(line.removeprefix(SIGN))), None
    return None, line
