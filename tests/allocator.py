"""What the CPU's allocator itself says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity


def peak_of(step: Callable[[], object]) -> int:
    """Bytes by which memory rises at most while a step runs, by the profiler's record of the allocator."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
