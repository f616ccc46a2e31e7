"""Progress of long steps: a bar with rate and time left in a terminal, one line per event elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with how far a step has come."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Reporter(ABC):
    """Where progress and events are shown."""

    @abstractmethod
    def event(self, text: str) -> None:
        """Something happened, e.g. an evaluation."""

    @abstractmethod
    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        """A long step; the value of the block is called with (done, total)."""


class SilentReporter(Reporter):
    """Shows nothing: the default of the Python functions."""

    def event(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        """Nothing."""
        yield lambda done, total, note="": None


class LineReporter(Reporter):
    """Plain lines on stderr: every event, and a step's state when it begins, now and then, and when it ends."""

    def __init__(self, seconds: float = 15.0) -> None:
        self.seconds = seconds

    def event(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        """A line at the start, one every few seconds, one at the end."""
        start = shown = time.monotonic()
        last = (0, 0, "")
        self.event(f"{name}: started")

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal shown, last
            last = (done, total, note)
            now = time.monotonic()
            if now - shown >= self.seconds:
                shown = now
                speed = pace(done, total, now - start)
                self.event(f"{name}: {done}/{total} {unit}{speed and f', {speed}'}{_note(note)}")

        yield advance
        spent = time.monotonic() - start
        self.event(f"{name}: done, {last[0]} {unit} in {_clock(spent)}{_note(last[2])}")


class TerminalReporter(Reporter):
    """Rich progress bars on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    def event(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def step(self, name: str, unit: str) -> Iterator[Advance]:
        """A bar."""
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[speed]}}"),
            TextColumn("{task.fields[note]}"),
        )
        start = time.monotonic()
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(escape(name), total=None, speed="", note="")

            def advance(done: int, total: int, note: str = "") -> None:
                speed = pace(done, total, time.monotonic() - start)
                progress.update(task, completed=done, total=total, speed=speed, note=escape(note))

            yield advance


def default_reporter() -> Reporter:
    """Bars where stderr is a terminal, else lines."""
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()


def pace(done: int, total: int, seconds: float) -> str:
    """Rate and time left in words; empty before anything is done."""
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    shown = f"{rate:.1f}/s" if rate >= 0.1 else f"{60 * rate:.1f}/min"
    return f"{shown}, {_clock((total - done) / rate)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _note(note: str) -> str:
    return f" ({note})" if note else ""
