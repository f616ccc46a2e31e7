"""What CUDA's allocator reports for the phases of a run; nothing without a GPU."""

from __future__ import annotations

import torch


class GpuPeaks:
    """Peaks of allocated and reserved memory, phase by phase."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def begin(self) -> None:
        """Reset the peak: a phase begins."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def end(self, phase: str) -> None:
        """Record the peak since `begin`, in bytes, as ``PHASE_allocated`` and ``PHASE_reserved``."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.found[f"{phase}_allocated"] = torch.cuda.max_memory_allocated()
            self.found[f"{phase}_reserved"] = torch.cuda.max_memory_reserved()

    @property
    def result(self) -> dict[str, int] | None:
        """All phases; None without a GPU."""
        return self.found or None
